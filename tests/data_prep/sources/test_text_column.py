"""Which column holds the text, where none is named."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.options import InputOptions
from data_prep.sources.corpus import open_files
from pretrain.errors import DataError, UsageError
from tests.data_prep.sources.reading import read_files


def write(path: Path, row: dict[str, object]) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.table({name: [value] for name, value in row.items()}), path)
    elif path.suffix == ".csv":
        path.write_text(f"{','.join(row)}\n{','.join(map(str, row.values()))}\n")
    else:
        path.write_text(f"\n{json.dumps(row)}\n")


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.jsonl"])
@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"title": "t", "text": "x"}, "text"),
        ({"id": 1, "body": "x", "score": 0.5}, "body"),
        (
            {"id": 1, "body": "x", "title": "t"},
            r"no column 'text' and several columns of strings \('body', 'title'\)",
        ),
        (
            {"id": 1},
            r"no column 'text' and no column of strings \(but 'id'\); name the column .* --text-column",
        ),
    ],
)
def test_the_column_is_found_or_asked_for(
    tmp_path: Path, name: str, row: dict[str, object], expected: str
) -> None:
    write(tmp_path / name, row)
    options = InputOptions(paths=(str(tmp_path),))
    if expected.isalpha():
        assert open_files(options).column == expected
        assert read_files(tmp_path)[0] == ["x"]
        return
    with pytest.raises(UsageError, match=rf"{name} has {expected}"):
        open_files(options)


def test_the_first_file_with_columns_decides_for_all(tmp_path: Path) -> None:
    (tmp_path / "0.txt").write_text("plain")
    (tmp_path / "1.jsonl").write_text("\n")
    write(tmp_path / "2.jsonl", {"body": "one"})
    write(tmp_path / "3.csv", {"id": 1, "body": "two", "title": "t"})
    assert read_files(tmp_path)[0] == ["plain", "one", "two"]
    write(tmp_path / "4.parquet", {"text": "three"})
    with pytest.raises(DataError, match=r"4\.parquet has no column 'body'; it has 'text'"):
        read_files(tmp_path)


def test_without_columns_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("plain")
    assert open_files(InputOptions(paths=(str(tmp_path),))).column is None
    (tmp_path / "a.txt").rename(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match=r"a\.jsonl:1 is not valid JSON"):
        open_files(InputOptions(paths=(str(tmp_path),)))
    (tmp_path / "a.jsonl").write_text("")
    assert read_files(tmp_path)[0] == []
