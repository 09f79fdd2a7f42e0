"""Cutting a plain text file that is not compressed into chunks, without reading most of it.

A chunk names its bytes, and the worker that gets it reads them: text does not travel from process to process. Only
what lies before a cut is read here, to find the last separator in it. Where there is none, the chunk is cut and read
as any other text is (`chunks`).
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from io import FileIO

from data_prep.documents import MAX_DOCUMENT_BYTES
from data_prep.sources.boundaries import last_boundary
from data_prep.sources.chunks import Chunk, Span, text_chunks
from data_prep.sources.content import BYTE_ORDER_MARK, plain_content
from data_prep.sources.files import InputFile, opened

_TAIL_BYTES = 1 << 16


def text_spans(
    file: InputFile, begin: int, end: int | None, newlines: int, chunk_bytes: int
) -> Iterator[Chunk]:
    """Chunks of the documents from byte `begin` to `end` (None: of the file); `newlines` as for `text_chunks`."""
    position = accounted = begin
    limit = file.bytes if end is None else end
    most = min(chunk_bytes, MAX_DOCUMENT_BYTES)
    with opened(file) as raw:
        if begin == 0 and os.pread(raw.fileno(), len(BYTE_ORDER_MARK), 0) == BYTE_ORDER_MARK:
            position = len(BYTE_ORDER_MARK)
        while position < limit:
            length = limit - position
            if length > most:
                length = _length_to_boundary(raw, position, most, newlines)
            following = position + length
            chunk: Chunk | None = Chunk(str(file.path), "text", position, Span(file, position, length), 0)
            if not length:
                raw.seek(position)
                content = plain_content(raw, position, limit)
                chunk = next(text_chunks(content, file.path, newlines, chunk_bytes), None)
                following = content.offset
            if chunk is None:  # nothing but white space to the end
                return
            yield replace(chunk, num_bytes=following - accounted)
            accounted = position = following


def _length_to_boundary(raw: FileIO, position: int, most: int, newlines: int) -> int:
    """From `position` to a late boundary in the next `most` bytes; 0 where there is none near their end."""
    tail_bytes = min(most, _TAIL_BYTES)
    before = most - tail_bytes
    tail = os.pread(raw.fileno(), tail_bytes, position + before)
    boundary = last_boundary(tail, newlines, len(tail))
    return before + boundary if boundary else 0
