"""Parquet and Arrow: layouts of strings, nulls, several row groups, damage, and memory of one batch."""

from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from data_prep.options import InputOptions
from data_prep.sources import rows
from data_prep.sources.corpus import open_files
from pretrain.errors import DataError
from tests.data_prep.sources.reading import read_files

TEXTS = ["one", None, "zwei Bäume", "", "x" * 3000, "one", "NA"]
EXPECTED = ["one", "zwei Bäume", "x" * 3000, "one", "NA"]


def write(path: Path, table: pa.Table) -> None:
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=2)
    elif path.name.startswith("stream"):
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=3)
    else:
        pa.feather.write_feather(table, str(path), compression="lz4", chunksize=3)


@pytest.mark.parametrize("name", ["a.parquet", "stream.arrow", "file.arrow", "a.feather"])
@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.dictionary(pa.int32(), pa.string())],
    ids=str,
)
def test_all_layouts_of_strings(tmp_path: Path, name: str, kind: pa.DataType) -> None:
    array = pa.array(TEXTS)
    array = array.dictionary_encode() if pa.types.is_dictionary(kind) else array.cast(kind)
    table = pa.table({"id": range(len(TEXTS)), "text": array, "list": [["x"]] * len(TEXTS)})
    write(tmp_path / name, table)
    texts, intake = read_files(tmp_path / name)
    assert texts == EXPECTED
    assert dict(intake.dropped) == {"null text": 1, "empty": 1}
    assert intake.documents == len(TEXTS)
    assert intake.bytes_read <= (tmp_path / name).stat().st_size
    if name != "stream.arrow":
        assert intake.bytes_read == (tmp_path / name).stat().st_size


@pytest.mark.parametrize("name", ["a.parquet", "stream.arrow", "file.arrow"])
def test_no_rows_and_only_nulls(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, pa.table({"text": pa.array([], pa.string())}))
    assert read_files(tmp_path)[0] == []
    write(tmp_path / name, pa.table({"text": pa.nulls(3)}))
    texts, intake = read_files(tmp_path)
    assert (texts, dict(intake.dropped)) == ([], {"null text": 3})


@pytest.mark.parametrize("name", ["a.parquet", "stream.arrow", "file.arrow"])
def test_invalid_utf8_is_named_by_its_row(tmp_path: Path, name: str) -> None:
    fine = "fine " * 80_000  # three make a chunk
    raw = [fine.encode()] * 5 + [b"not \xff fine", b"fine"]
    write(tmp_path / name, pa.table({"text": pa.array(raw, pa.binary()).view(pa.string())}))
    with pytest.raises(DataError, match=rf"{name}, row 6: its text is not valid UTF-8 at byte 4 "):
        read_files(tmp_path)
    assert read_files(tmp_path, on_bad_text="skip")[0] == [fine] * 5 + ["fine"]
    assert "not \N{REPLACEMENT CHARACTER} fine" in read_files(tmp_path, on_bad_text="replace")[0]


@pytest.mark.parametrize("name", ["a.parquet", "stream.arrow", "file.arrow"])
def test_a_column_that_is_missing_or_no_text(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, pa.table({"text": ["x"], "id": [1]}))
    with pytest.raises(DataError, match=rf"{name} has no column 'body'; it has 'text', 'id': choose"):
        read_files(tmp_path, text_column="body")
    with pytest.raises(DataError, match=rf"{name}: the column 'id' holds int64 where text"):
        read_files(tmp_path, text_column="id")


@pytest.mark.parametrize("name", ["a.parquet", "stream.arrow", "file.arrow"])
@pytest.mark.parametrize("damage", ["empty", "half", "start", "other"])
def test_damaged_files_are_named(tmp_path: Path, name: str, damage: str) -> None:
    path = tmp_path / name
    texts = [f"{number} " * 50 for number in range(20_000)]
    write(path, pa.table({"text": texts})) if path.suffix != ".parquet" else pq.write_table(
        pa.table({"text": texts}), path
    )
    content = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "half": content[: len(content) // 2], "start": content[:11], "other": b"text\n"}[
            damage
        ]
    )
    kind = "Parquet" if path.suffix == ".parquet" else "Arrow"
    with pytest.raises(DataError, match=rf"{name} cannot be read as {kind} \(.+\); copy"):
        read_files(path)


def test_a_saved_dataset_is_read_as_it_lies(tmp_path: Path) -> None:
    saved = datasets.DatasetDict(
        {
            name: datasets.Dataset.from_dict({"text": [f"{name} one", f"{name} two"]})
            for name in ("test", "train")
        }
    )
    saved.save_to_disk(tmp_path / "saved")
    assert read_files(tmp_path / "saved")[0] == ["test one", "test two", "train one", "train two"]
    assert read_files(tmp_path / "saved" / "train")[0] == ["train one", "train two"]


def test_large_batches_become_chunks_of_a_mebibyte(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    texts = [generator.bytes(500).hex() for _ in range(5_000)]
    for name in ("a.parquet", "b.arrow"):
        path = tmp_path / name
        if path.suffix == ".parquet":
            pq.write_table(pa.table({"text": texts}), path)
        else:
            pa.feather.write_feather(pa.table({"text": texts}), str(path), compression="uncompressed")
        chunks = list(open_files(InputOptions(paths=(str(path),))).chunks(0))
        assert [chunk.offset for chunk in chunks] == [0, 1049, 2098, 3147, 4196]
        assert [row.decode() for chunk in chunks for row in chunk.content] == texts  # type: ignore[union-attr]
        assert sum(chunk.num_bytes for chunk in chunks) == path.stat().st_size


def test_a_row_too_long_is_refused_or_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_ROW_BYTES", 100)
    raw = [b"one", b"x" * 101, b"\xff", b"y" * 100, b"z" * 102]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": pa.array(raw, pa.binary())}), path)
    with pytest.raises(DataError, match=r"a\.parquet, row 2 is longer than 100 bytes"):
        read_files(path, text_column="text")
    texts, intake = read_files(path, on_bad_text="skip", text_column="text")
    assert texts == ["one", "y" * 100]
    assert (intake.documents, dict(intake.dropped)) == (5, {"line too long": 2, "invalid UTF-8": 1})
    options = InputOptions(paths=(str(path),), text_column="text", on_bad_text="skip")
    assert [chunk.offset for chunk in open_files(options).chunks(0)] == [0, 2]
