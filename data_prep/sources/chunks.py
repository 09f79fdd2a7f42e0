"""Cutting text and JSON Lines into chunks, in the main process: bytes, no decoding, no look at every line.

A chunk ends where a document ends. How documents and chunks are cut depends on the content alone: a document
longer than `MAX_DOCUMENT_BYTES` (counted from its first byte to the end of its separator) is cut by the rule of
`byte_cut`, and what is left is treated as a document of its own, again and again. So a file that is read in
segments has the same documents as one that is read at once, in bounded memory whatever it holds.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_prep.documents import MAX_DOCUMENT_BYTES, Intake, byte_cut
from data_prep.options import BadText
from data_prep.sources.boundaries import last_boundary
from data_prep.sources.content import Content, line_number
from data_prep.sources.files import InputFile, opened
from pretrain.errors import DataError

CHUNK_BYTES = 1 << 20
# A JSON string must be parsed whole: a line takes up to some five times its size while it is.
MAX_JSON_LINE_BYTES = 1 << 25
TOO_LONG = "line too long"


@dataclass(frozen=True, slots=True)
class Span:
    """`num_bytes` of a file that is not compressed, from byte `begin` on."""

    file: InputFile
    begin: int
    num_bytes: int

    def read(self) -> bytes:
        """Raises DataError where the file is not the one that was listed, OSError, naming it, where it fails."""
        with opened(self.file) as raw:
            raw.seek(self.begin)
            blocks, missing = [], self.num_bytes
            while missing and (block := raw.read(missing)):
                blocks.append(block)
                missing -= len(block)
        return b"".join(blocks)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some consecutive documents on their way to a worker.

    `content`: bytes of text or JSON Lines that begin at byte `offset` of the decompressed file, or where they lie; or
    rows, of which the first has number `offset`, as UTF-8, None for a null. `num_bytes` of the input are read for it.
    `column` is the key of the text in JSON Lines. `intake` is what the main process met on the way.
    """

    path: str
    kind: Literal["text", "jsonl", "rows"]
    offset: int
    content: bytes | Span | tuple[bytes | None, ...]
    num_bytes: int
    column: str = ""
    intake: Intake | None = None


def text_chunks(content: Content, path: Path, newlines: int, chunk_bytes: int) -> Iterator[Chunk]:
    """Chunks of at most `MAX_DOCUMENT_BYTES + 1`; `newlines` separate two documents (see `boundaries`)."""
    window = MAX_DOCUMENT_BYTES + 1
    wanted = chunk_bytes
    while True:
        content.fill(wanted)
        held = content.held
        if content.has_ended and len(held) <= MAX_DOCUMENT_BYTES:
            if held:
                yield _text_chunk(content, path, len(held))
            return
        boundary = last_boundary(held, newlines, window)
        if boundary:
            yield _text_chunk(content, path, boundary)
            wanted = chunk_bytes
            continue
        num_blank = len(held) - len(held.lstrip())
        if num_blank:
            content.take(num_blank)
        elif len(held) < window:
            wanted = window
        else:
            length = byte_cut(held[:window], MAX_DOCUMENT_BYTES)
            yield _text_chunk(content, path, length, Intake(documents_cut=1))
            wanted = chunk_bytes


def line_chunks(
    content: Content, path: Path, column: str, on_bad_text: BadText, chunk_bytes: int
) -> Iterator[Chunk]:
    """JSON Lines by the chunk; lines too long are counted."""
    num_dropped = 0
    for offset, lines in line_runs(content, path, on_bad_text, chunk_bytes):
        if lines is None:
            num_dropped += 1
        else:
            yield Chunk(str(path), "jsonl", offset, lines, content.account(), column, _too_long(num_dropped))
            num_dropped = 0
    if num_dropped:
        yield Chunk(
            str(path), "jsonl", content.offset, b"", content.account(), column, _too_long(num_dropped)
        )


def line_runs(
    content: Content, path: Path, on_bad_text: BadText, chunk_bytes: int
) -> Iterator[tuple[int, bytes | None]]:
    """(offset, whole lines) of about `chunk_bytes`, or one longer line; raises DataError for one that is too long.

    With `on_bad_text` "skip" such a line is None.
    """
    wanted = chunk_bytes
    while True:
        content.fill(wanted)
        held, offset = content.held, content.offset
        if not held:
            return
        first = held.find(b"\n") if len(held) > MAX_JSON_LINE_BYTES else 0
        length = len(held) if content.has_ended else held.rfind(b"\n") + 1
        if first < 0 or first > MAX_JSON_LINE_BYTES:
            _refuse_long_line(content, path, on_bad_text)
            yield offset, None
        elif length:
            yield offset, content.take(length)
        else:
            wanted = min(2 * len(held), MAX_JSON_LINE_BYTES + 1)
            continue
        wanted = chunk_bytes


def _text_chunk(content: Content, path: Path, length: int, met: Intake | None = None) -> Chunk:
    """The first bytes held."""
    offset, text = content.offset, content.take(length)
    return Chunk(str(path), "text", offset, text, content.account(), intake=met)


def _too_long(count: int) -> Intake | None:
    return Intake(documents=count, dropped=Counter({TOO_LONG: count})) if count else None


def _refuse_long_line(content: Content, path: Path, on_bad_text: BadText) -> None:
    """Raise, or take the line at which the content stands, never holding all of it."""
    if on_bad_text != "skip":
        raise DataError(
            f"{path}:{line_number(path, content.offset)} is longer than {MAX_JSON_LINE_BYTES:,} bytes; split its "
            "text over several lines, or choose --on-bad-text skip."
        )
    while (end := content.held.find(b"\n")) < 0:
        content.take(len(content.held))
        content.fill(CHUNK_BYTES)
        if content.has_ended and not content.held:
            return
    content.take(end + 1)
