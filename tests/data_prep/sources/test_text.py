"""Plain text: grouping, white space, long documents, and invalid bytes named by their offset."""

import gzip
from pathlib import Path

import pytest

from data_prep.documents import MAX_DOCUMENT_BYTES
from data_prep.options import Grouping, InputOptions
from data_prep.sources.chunks import Span
from data_prep.sources.corpus import open_files
from pretrain.errors import DataError
from tests.data_prep.sources.reading import read_files


@pytest.mark.parametrize(
    ("grouping", "expected"),
    [
        ("blank-line", ["a\nb", "c", "d"]),
        ("line", ["a", "b", "c", "d"]),
        ("file", ["a\nb\n\n \t\nc\n\nd"]),
    ],
)
def test_grouping(tmp_path: Path, grouping: Grouping, expected: list[str]) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfa\nb\n\n \t\nc\n\nd")
    texts, intake = read_files(path, documents=grouping)
    assert texts == expected
    assert (intake.bytes_read, intake.documents) == (path.stat().st_size, len(expected))
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_files(path, documents=grouping)[0] == [text.replace("\n", "\r\n") for text in expected]


@pytest.mark.parametrize("content", [b"", b"\n\n \r\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n", b" \n\n"])
def test_files_that_say_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    assert read_files(tmp_path)[0] == []


@pytest.mark.parametrize("grouping", ["blank-line", "line", "file"])
def test_long_lines_are_cut_and_the_invalid_byte_behind_them_is_found(
    tmp_path: Path, grouping: Grouping
) -> None:
    path = tmp_path / "a.txt"
    long_line = b"Many words without an end. " * 100_000
    path.write_bytes(long_line)
    texts, intake = read_files(path, documents=grouping)
    assert " ".join(texts).encode() == long_line.strip()
    assert max(map(len, texts)) <= MAX_DOCUMENT_BYTES
    assert intake.documents_cut == len(texts) - 1 == 2
    path.write_bytes(long_line + b"\xc3(")
    with pytest.raises(DataError, match=rf"a\.txt is not valid UTF-8 at byte {len(long_line)} "):
        read_files(path, documents=grouping)


@pytest.mark.parametrize("grouping", ["blank-line", "line"])
@pytest.mark.parametrize("is_compressed", [False, True])
def test_the_invalid_byte_is_named_wherever_it_lies(
    tmp_path: Path, grouping: Grouping, is_compressed: bool
) -> None:
    content = b"\xef\xbb\xbf" + "Ein Satz über Bäume.\r\n\r\n".encode() * 100_000
    at = content.index(b"Satz", 1_500_000)
    content = content[:at] + b"\xff" + content[at + 1 :]
    path = tmp_path / ("a.txt.gz" if is_compressed else "a.txt")
    path.write_bytes(gzip.compress(content, 1) if is_compressed else content)
    with pytest.raises(DataError, match=rf"{path.name} is not valid UTF-8 at byte {at} "):
        read_files(path, documents=grouping)
    texts, intake = read_files(path, documents=grouping, on_bad_text="skip")
    assert (len(texts), dict(intake.dropped)) == (99_999, {"invalid UTF-8": 1})
    texts, intake = read_files(path, documents=grouping, on_bad_text="replace")
    assert texts.count("Ein \N{REPLACEMENT CHARACTER}atz über Bäume.") == 1
    assert (len(texts), intake.repaired) == (100_000, 1)


def test_chunks_are_of_about_a_mebibyte_and_their_bytes_add_up(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"Some words\nin two lines.\n \n" * 200_000)
    chunks = list(open_files(InputOptions(paths=(str(path),))).chunks(0))
    assert len(chunks) == 6
    lengths = [chunk.content.num_bytes for chunk in chunks if isinstance(chunk.content, Span)]
    assert len(lengths) == 6 and max(lengths) <= MAX_DOCUMENT_BYTES
    assert sum(chunk.num_bytes for chunk in chunks) == path.stat().st_size
