"""Where one document of a plain file ends and the next begins.

A document separator is a run of ASCII white space (space, \\t, \\n, \\v, \\f, \\r) with enough newlines in it:
two for documents separated by blank lines, one for a document per line. What lies between two separators is a
document; it neither begins nor ends with white space. All of it is decided on bytes: in UTF-8 no byte of a
longer character looks like ASCII.

The newlines that a separator needs are called `newlines` below; 0 stands for none at all, a file that is one
document.
"""

import re
from collections.abc import Iterator
from io import FileIO

from data_prep.options import Grouping

_SCAN_BYTES = 1 << 16

_NOT_BLANK = re.compile(rb"\S")
_BLANK_LINE = re.compile(rb"\n[ \t\r\v\f]*+\n")
_BETWEEN_PARAGRAPHS = re.compile(rb"\n[ \t\r\v\f]*+\n\s*+")


def newlines_of(grouping: Grouping) -> int:
    """How many newlines separate two documents."""
    if grouping == "blank-line":
        return 2
    return 1 if grouping == "line" else 0


def last_boundary(content: bytes, newlines: int, end: int) -> int:
    """A late position in content[:end] that follows a separator's newlines; 0 if there is none.

    It is the last one, unless blank lines of several kinds are mixed.
    """
    if newlines == 0:
        return 0
    if newlines == 1:
        return content.rfind(b"\n", 0, end) + 1
    for plain in (b"\n\n", b"\n\r\n"):  # nearly all there are; a search that does not look at every line
        found = content.rfind(plain, 0, end)
        if found >= 0:
            return found + len(plain)
    last = 0
    for match in _BLANK_LINE.finditer(content, 0, end):
        last = match.end()
    return last


def documents_in(content: bytes, newlines: int) -> Iterator[tuple[int, bytes]]:
    """(position, bytes without white space around them) of each document."""
    position = 0
    for document, following in _pieces(content, newlines):
        begun = document.lstrip()
        if begun:
            yield position + len(document) - len(begun), begun.rstrip()
        position = following


def _pieces(content: bytes, newlines: int) -> Iterator[tuple[bytes, int]]:
    """(bytes up to a separator, where what follows it begins)."""
    start = 0
    if newlines == 1:
        for line in content.split(b"\n"):
            start += len(line) + 1
            yield line, start
        return
    for match in _BETWEEN_PARAGRAPHS.finditer(content) if newlines else ():
        yield content[start : match.start()], match.end()
        start = match.end()
    yield content[start:], len(content)


def first_start(file: FileIO, position: int, newlines: int) -> int:
    """Byte at which the first document begins that begins at or after `position`; the file's size if none does.

    Reads from a little before `position` up to that document. 0 is the beginning of the file.
    """
    size = file.seek(0, 2)
    if position <= 0 or position >= size:
        return max(0, min(position, size))
    seen = _newlines_before(file, position, newlines)
    file.seek(position)
    while block := file.read(_SCAN_BYTES):
        at = 0
        while at < len(block):
            # Here lies white space, perhaps of no length, of which `seen` newlines came before.
            found = _NOT_BLANK.search(block, at)
            stop = found.start() if found else len(block)
            seen += block.count(b"\n", at, stop)
            if found is None:
                break
            if seen >= newlines:
                return position + stop
            at, seen = _next_run(block, stop, newlines), 0
        position += len(block)
    return size


def _next_run(block: bytes, start: int, newlines: int) -> int:
    """Where the first white space begins that is a separator, or that may go on behind the block."""
    if newlines == 1:
        found = block.find(b"\n", start)
    else:
        match = _BLANK_LINE.search(block, start)
        found = match.start() if match else -1
    return found if found >= 0 else len(block.rstrip())


def _newlines_before(file: FileIO, position: int, newlines: int) -> int:
    """Newlines in the white space that ends at `position`, no more than are needed; the file's beginning
    separates as well."""
    seen = 0
    while position > 0 and seen < newlines:
        start = max(0, position - _SCAN_BYTES)
        file.seek(start)
        block = file.read(position - start)
        rest = block.rstrip()
        seen += block.count(b"\n", len(rest))
        if rest:
            return seen
        position = start
    return newlines
