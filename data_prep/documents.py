"""What every source keeps to: a tally of what was met while reading, valid UTF-8, and no document longer than
`MAX_DOCUMENT_BYTES`.

The bound keeps memory bounded however long a line or a file is (a tokenizer takes some 200 bytes for each
byte of a single text), and it keeps a block of the store near its nominal size.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import AnyStr

from data_prep.options import BadText
from pretrain.errors import DataError

MAX_DOCUMENT_BYTES = 1 << 20

_SENTENCE_ENDS = ("\n", ". ", "! ", "? ", "。", "！", "？", "।", "؟ ")  # noqa: RUF001 - other scripts' marks
_SENTENCE_ENDS_UTF8 = tuple(end.encode() for end in _SENTENCE_ENDS)
_MAX_UTF8_CONTINUATION = 3


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

    def keep(self, text: str) -> bool:
        """Count a text; False if it is blank, and so none."""
        if not text or text.isspace():
            self.drop("empty")
            return False
        self.documents += 1
        return True

    def add(self, other: "Intake") -> None:
        """Add up what was met elsewhere, in a worker for example."""
        self.bytes_read += other.bytes_read
        self.documents += other.documents
        self.documents_cut += other.documents_cut
        self.repaired += other.repaired
        self.duplicate_passages += other.duplicate_passages
        self.dropped.update(other.dropped)


def repair(
    error: UnicodeDecodeError, place: str, offset: int, on_bad_text: BadText, intake: Intake
) -> str | None:
    """The text of bytes that are not UTF-8, None where it is to be skipped; raises DataError under "error".

    The bytes begin at byte `offset` of `place`, which the message names.
    """
    if on_bad_text == "error":
        raise DataError(
            f"{place} is not valid UTF-8 at byte {offset + error.start} ({error.reason}); "
            "convert the file, or choose --on-bad-text replace or skip."
        ) from None
    if on_bad_text == "skip":
        intake.drop("invalid UTF-8")
        return None
    intake.repaired += 1
    return error.object.decode(errors="replace")


def bounded(text: str, intake: Intake) -> Iterator[str]:
    """The text in pieces whose UTF-8 is no longer than `MAX_DOCUMENT_BYTES`."""
    if len(text) * (_MAX_UTF8_CONTINUATION + 1) <= MAX_DOCUMENT_BYTES:
        yield text
        return
    content, start = text.encode(), 0
    while len(content) - start > MAX_DOCUMENT_BYTES:
        window = content[start : start + MAX_DOCUMENT_BYTES + 1]
        length = byte_cut(window, MAX_DOCUMENT_BYTES)
        yield window[:length].decode()
        intake.documents_cut += 1
        start += length
    yield content[start:].decode()


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
