"""Chunks that name their bytes hold the documents that chunks with their bytes hold."""

import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.documents import MAX_DOCUMENT_BYTES, Intake
from data_prep.options import InputOptions
from data_prep.sources.chunks import Chunk, Span, text_chunks
from data_prep.sources.content import opened_content
from data_prep.sources.files import InputFile, find_files
from data_prep.sources.reading import read_chunk
from data_prep.sources.spans import text_spans
from pretrain.errors import DataError

PIECES = st.lists(
    st.sampled_from(["a", "bcd", " ", "\n", "\n\n", "\n \n", "\r\n", "\r\n\r\n", "\t\n\n", "é", "x" * 40]),
    max_size=40,
).map("".join)


def listed(path: Path, content: bytes) -> InputFile:
    path.write_bytes(content)
    return find_files((str(path),), "auto").files[0]


def texts_of(chunks: Iterable[Chunk], options: InputOptions) -> tuple[list[str], int]:
    """All texts, and the bytes that the chunks say they take."""
    texts: list[str] = []
    intake = Intake()
    for chunk in chunks:
        texts += read_chunk(chunk, options, intake)
    return texts, intake.bytes_read


@pytest.mark.parametrize(("grouping", "newlines"), [("blank-line", 2), ("line", 1), ("file", 0)])
def test_same_documents_wherever_chunks_end(tmp_path: Path, grouping: str, newlines: int) -> None:
    options = InputOptions(paths=("a",), documents=grouping)  # type: ignore[arg-type]

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(PIECES, st.integers(1, 60), st.booleans())
    def same(text: str, chunk_bytes: int, has_mark: bool) -> None:
        content = (b"\xef\xbb\xbf" if has_mark else b"") + text.encode()
        file = listed(tmp_path / "a.txt", content)
        with opened_content(file) as whole:
            expected, _ = texts_of(text_chunks(whole, file.path, newlines, 1 << 20), options)
        found, num_bytes = texts_of(text_spans(file, 0, None, newlines, chunk_bytes), options)
        assert found == expected
        assert (
            not content[num_bytes:].strip() or not text.strip()
        )  # white space at the end belongs to nothing
        assert num_bytes <= len(content)

    same()


def test_a_document_that_fills_the_end_of_a_chunk_is_read_with_its_bytes(tmp_path: Path) -> None:
    long = b"word " * (MAX_DOCUMENT_BYTES // 5)
    file = listed(tmp_path / "a.txt", b"One.\n\n" + long + b"\n\nLast.")
    chunks = list(text_spans(file, 0, None, 2, 1 << 20))
    assert [isinstance(chunk.content, Span) for chunk in chunks] == [False, False, True]
    texts, num_bytes = texts_of(chunks, InputOptions(paths=("a",)))
    assert [text[:4] for text in texts] == ["One.", "word", "Last"]
    assert num_bytes == file.bytes


def test_a_file_that_changes_before_its_bytes_are_read_is_named(tmp_path: Path) -> None:
    file = listed(tmp_path / "a.txt", b"One.\n\n" * 100)
    (chunk,) = text_spans(file, 0, None, 2, 1 << 20)
    os.utime(file.path, ns=(0, 0))
    with pytest.raises(DataError, match=r"a\.txt changed while it was read"):
        texts_of([chunk], InputOptions(paths=("a",)))
