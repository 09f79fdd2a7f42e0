"""Every format in every compression says what plain text says; the sample of a corpus; its description."""

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import zstandard

from data_prep.options import InputOptions
from data_prep.sources.corpus import open_files
from tests.data_prep.sources.reading import read_corpus, read_files

TEXTS = [
    f'Text {number} says "wörter", commas,\nand lines; then ' + "more words. " * (number % 50)
    for number in range(2_000)
]
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
}


def as_table(delimiter: str) -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=delimiter).writerows([("id", "text"), *enumerate(TEXTS)])
    return buffer.getvalue().encode()


CONTENT: dict[str, Callable[[], bytes]] = {
    ".txt": lambda: "\n\n".join(TEXTS).encode(),
    ".jsonl": lambda: "\n".join(json.dumps({"id": 1, "text": text}) for text in TEXTS).encode(),
    ".csv": lambda: as_table(","),
    ".tsv": lambda: as_table("\t"),
}


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("suffix", CONTENT)
def test_every_format_in_every_compression(tmp_path: Path, suffix: str, packing: str) -> None:
    path = tmp_path / f"a{suffix}{packing}"
    path.write_bytes(PACK[packing](CONTENT[suffix]()))
    texts, intake = read_files(path)
    assert [text.strip() for text in texts] == [text.strip() for text in TEXTS]
    assert intake.documents == len(TEXTS)
    assert intake.bytes_read == path.stat().st_size


def write_all(folder: Path) -> None:
    for number, suffix in enumerate(CONTENT):
        for packing in PACK:
            (folder / f"{number}{suffix}{packing}").write_bytes(PACK[packing](CONTENT[suffix]()))
    pq.write_table(pa.table({"text": TEXTS}), folder / "5.parquet")
    pa.feather.write_feather(pa.table({"text": TEXTS}), str(folder / "6.arrow"))


def test_segments_of_all_kinds_of_files_add_up(tmp_path: Path) -> None:
    write_all(tmp_path)
    whole = read_files(tmp_path)
    assert len(whole[0]) == 22 * len(TEXTS)
    for segment_bytes in (100_000, 333_333):
        texts, intake = read_files(tmp_path, segment_bytes=segment_bytes)
        assert (texts, intake.documents, intake.bytes_read) == (
            whole[0],
            whole[1].documents,
            whole[1].bytes_read,
        )


def test_the_sample_takes_a_share_of_each_file_and_is_repeatable(tmp_path: Path) -> None:
    for index in range(4):
        (tmp_path / f"{index}.txt").write_text("".join(f"{index} line {line}\n\n" for line in range(1000)))
    corpus = open_files(InputOptions(paths=(str(tmp_path),)))
    sample = list(corpus.sample(corpus.total_bytes // 10))
    assert sample == list(corpus.sample(corpus.total_bytes // 10))
    assert {text[0] for text in sample} == set("0123")
    assert 0.05 < sum(map(len, sample)) / corpus.total_bytes < 0.15
    assert len(list(corpus.sample(10**9))) == 4000


def test_the_sample_of_all_formats_is_bounded_and_reads_little(tmp_path: Path) -> None:
    write_all(tmp_path)
    corpus = open_files(InputOptions(paths=(str(tmp_path),)))
    before = bytes_read_by_this_process()
    sample = list(corpus.sample(200_000))
    assert bytes_read_by_this_process() - before < 22 * (1 << 17)
    assert 180_000 < sum(map(len, sample)) < 220_000
    assert len(list(corpus.sample(10**9))) == 22 * len(TEXTS)


def test_the_sample_of_large_files_reads_little(tmp_path: Path) -> None:
    for suffix in (".txt", ".jsonl"):
        (tmp_path / f"a{suffix}").write_bytes((CONTENT[suffix]() + b"\n\n") * 10)
    corpus = open_files(InputOptions(paths=(str(tmp_path),)))
    assert corpus.total_bytes > 14_000_000
    before = bytes_read_by_this_process()
    list(corpus.sample(100_000))
    assert bytes_read_by_this_process() - before < 500_000


def bytes_read_by_this_process() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def test_the_description_says_what_was_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"one"))
    (tmp_path / "b.csv").write_text("id,body\n1,two\n")
    (tmp_path / "c.pdf").write_text("x")
    options = InputOptions(paths=(str(tmp_path),))
    corpus = open_files(options)
    described = corpus.describe()
    assert described.pop("digest") == corpus.inputs.digest()
    assert described == {
        "files": 2,
        "bytes": corpus.total_bytes,
        "formats": {"csv": 1, "text": 1},
        "compressions": {"gz": 1},
        "text_column": "body",
        "delimiter": None,
        "ignored_files_by_suffix": {".pdf": 1},
    }
    assert read_corpus(corpus, options)[0] == ["one", "two"]
    (tmp_path / "b.csv").write_text("id,body\n1,new\n")
    assert open_files(options).inputs.digest() != corpus.inputs.digest()
