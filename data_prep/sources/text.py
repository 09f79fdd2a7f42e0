"""Documents of one plain-text file, in bounded memory.

`datasets` reads text too, but reports an invalid byte without the file and without its offset in it, and
either copies the corpus into a cache first or, streaming, cuts a long paragraph at its chunk's end.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from data_prep.documents import MAX_DOCUMENT_BYTES, Document, Intake, byte_cut, decode
from data_prep.options import BadText, Grouping

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_text(path: Path, grouping: Grouping, on_bad_text: BadText, intake: Intake) -> Iterator[Document]:
    """Documents separated by blank lines, one per line, or the file as one."""
    with path.open("rb") as file:
        for offset, content in _raw_documents(file, grouping, intake):
            text = decode(content, path, offset, on_bad_text, intake)
            if text is None:
                continue
            document = intake.keep(f"{path} at byte {offset}", text)
            if document is not None:
                yield document


def _raw_documents(file: BinaryIO, grouping: Grouping, intake: Intake) -> Iterator[tuple[int, bytes]]:
    """(offset, content) of each document, never longer than `MAX_DOCUMENT_BYTES`."""
    parts: list[bytes] = []
    size, start, position, at_line_start = 0, 0, 0, True
    while line := file.readline(MAX_DOCUMENT_BYTES):
        intake.bytes_read += len(line)
        position += len(line)
        if position == len(line):
            line = line.removeprefix(_BYTE_ORDER_MARK)
        ends_line = line.endswith(b"\n")
        is_blank = at_line_start and ends_line and line.isspace()
        at_line_start = ends_line
        if not (grouping == "blank-line" and is_blank):
            if not parts:
                start = position - len(line)
            parts.append(line)
            size += len(line)
        while size > MAX_DOCUMENT_BYTES:
            held = b"".join(parts)
            length = byte_cut(held, MAX_DOCUMENT_BYTES)
            intake.documents_cut += 1
            yield start, held[:length]
            start, size, parts = start + length, size - length, [held[length:]]
        ends_document = is_blank if grouping == "blank-line" else grouping == "line" and ends_line
        if parts and ends_document:
            yield start, b"".join(parts)
            parts, size = [], 0
    if parts:
        yield start, b"".join(parts)
