"""From a chunk to the texts of its documents: the part of reading that workers do."""

from collections.abc import Iterator

from data_prep.documents import Intake, bounded, repair
from data_prep.options import BadText, InputOptions
from data_prep.sources.boundaries import documents_in, newlines_of
from data_prep.sources.chunks import Chunk, Span
from data_prep.sources.jsonl import texts_in


def read_chunk(chunk: Chunk, options: InputOptions, intake: Intake) -> Iterator[str]:
    """The texts of the documents, none of them blank, none longer than `MAX_DOCUMENT_BYTES` as UTF-8.

    Raises DataError for what is not valid, unless `options.on_bad_text` says otherwise, naming the file and the
    byte, line or row.
    """
    intake.bytes_read += chunk.num_bytes
    if chunk.intake is not None:
        intake.add(chunk.intake)
    on_bad_text = options.on_bad_text
    content = chunk.content.read() if isinstance(chunk.content, Span) else chunk.content
    if isinstance(content, tuple):
        texts = _rows(content, chunk, on_bad_text, intake)
    elif chunk.kind == "jsonl":
        texts = texts_in(content, chunk.path, chunk.offset, chunk.column, on_bad_text, intake)
    else:
        texts = _documents(content, chunk, newlines_of(options.documents), on_bad_text, intake)
    for text in texts:
        for piece in bounded(text, intake):
            if intake.keep(piece):
                yield piece


def _documents(
    content: bytes, chunk: Chunk, newlines: int, on_bad_text: BadText, intake: Intake
) -> Iterator[str]:
    for position, document in documents_in(content, newlines):
        try:
            text: str | None = document.decode()
        except UnicodeDecodeError as error:
            text = repair(error, chunk.path, chunk.offset + position, on_bad_text, intake)
        if text is not None:
            yield text


def _rows(
    rows: tuple[bytes | None, ...], chunk: Chunk, on_bad_text: BadText, intake: Intake
) -> Iterator[str]:
    for number, row in enumerate(rows, start=chunk.offset + 1):
        if row is None:
            intake.drop("null text")
            continue
        try:
            text: str | None = row.decode()
        except UnicodeDecodeError as error:
            text = repair(error, f"{chunk.path}, row {number}: its text", 0, on_bad_text, intake)
        if text is not None:
            yield text
