"""A document, a tally of what was met while reading, and two rules that every source keeps: text is valid
UTF-8, and no document is longer than `MAX_DOCUMENT_BYTES`.

The bound keeps memory bounded however long a line or a file is (a tokenizer takes some 200 bytes for each
byte of a single text), and it keeps a block of the store near its nominal size.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import AnyStr

from data_prep.options import BadText
from pretrain.errors import DataError

MAX_DOCUMENT_BYTES = 1 << 20

_SENTENCE_ENDS = ("\n", ". ", "! ", "? ", "。", "！", "？", "।", "؟ ")  # noqa: RUF001 - other scripts' marks
_SENTENCE_ENDS_UTF8 = tuple(end.encode() for end in _SENTENCE_ENDS)
_MAX_UTF8_CONTINUATION = 3


@dataclass(frozen=True, slots=True)
class Document:
    """One document and where it was found (`file:line`, `file at byte N`, a module of the demo corpus)."""

    origin: str
    text: str


@dataclass
class Intake:
    """Tally of what the sources met; the build reads it for its progress bar and its report."""

    bytes_read: int = 0
    documents: int = 0
    documents_cut: int = 0
    repaired: int = 0
    duplicate_passages: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def drop(self, reason: str) -> None:
        self.documents += 1
        self.dropped[reason] += 1

    def keep(self, origin: str, text: str) -> Document | None:
        """A document, unless it is blank."""
        if not text or text.isspace():
            self.drop("empty")
            return None
        self.documents += 1
        return Document(origin, text)


def decode(content: bytes, path: Path, offset: int, on_bad_text: BadText, intake: Intake) -> str | None:
    """UTF-8 text of bytes that begin at byte `offset` of `path`; None where they are to be skipped."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        if on_bad_text == "error":
            raise DataError(
                f"{path} is not valid UTF-8 at byte {offset + error.start} ({error.reason}); "
                "convert the file, or choose --on-bad-text replace or skip."
            ) from None
    if on_bad_text == "skip":
        intake.drop("invalid UTF-8")
        return None
    intake.repaired += 1
    return content.decode(errors="replace")


def bounded(content: bytes, intake: Intake) -> Iterator[bytes]:
    """The content in pieces no longer than `MAX_DOCUMENT_BYTES`."""
    start = 0
    while len(content) - start > MAX_DOCUMENT_BYTES:
        piece = content[start : start + MAX_DOCUMENT_BYTES + 1]
        length = byte_cut(piece, MAX_DOCUMENT_BYTES)
        yield piece[:length]
        intake.documents_cut += 1
        start += length
    yield content[start:]


def byte_cut(content: bytes, limit: int) -> int:
    """Where to cut UTF-8 longer than `limit`: after a sentence, else after a space, else between characters.

    Only the second half before the limit is searched, so that pieces stay large.
    """
    for marks in (_SENTENCE_ENDS_UTF8, (b" ",)):
        found = max(_end_of_last(content, mark, limit) for mark in marks)
        if found > 0:
            return found
    for back in range(_MAX_UTF8_CONTINUATION + 1):
        if content[limit - back] & 0xC0 != 0x80:  # not a continuation byte: a character begins here
            return limit - back
    return limit


def text_cut(text: str, limit: int) -> tuple[int, bool]:
    """The same for str; also whether the cut falls after a sentence."""
    found = max(_end_of_last(text, mark, limit) for mark in _SENTENCE_ENDS)
    if found > 0:
        return found, True
    found = _end_of_last(text, " ", limit)
    return (found, False) if found > 0 else (limit, False)


def _end_of_last(text: AnyStr, mark: AnyStr, limit: int) -> int:
    """Exclusive end of the last `mark` in the second half of text[:limit], 0 if there is none."""
    position = text.rfind(mark, limit // 2, limit)
    return position + len(mark) if position >= 0 else 0
