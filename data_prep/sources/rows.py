"""Rows of texts on their way to the workers: the bytes of each text, which a worker decodes, so that an error
names the row.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from data_prep.documents import Intake
from data_prep.options import BadText
from data_prep.sources.chunks import TOO_LONG, Chunk
from pretrain.errors import DataError

MAX_ROW_BYTES = 1 << 26


@dataclass(frozen=True, slots=True)
class Batch:
    """UTF-8 of consecutive rows' texts, None for a null; `num_bytes` of the input were read for them."""

    rows: list[bytes | None]
    num_bytes: int


def row_chunks(
    batches: Iterable[Batch], path: str, on_bad_text: BadText, chunk_bytes: int
) -> Iterator[Chunk]:
    """Chunks of about `chunk_bytes`, or one longer row.

    A row longer than `MAX_ROW_BYTES` is a DataError; with `on_bad_text` "skip" it is dropped and counted.
    """
    rows: list[bytes | None] = []
    first, size, num_bytes = 0, 0, 0
    for batch in batches:
        num_bytes += batch.num_bytes
        for row in batch.rows:
            length = len(row) if row is not None else 0
            is_too_long = length > MAX_ROW_BYTES
            if is_too_long and on_bad_text != "skip":
                raise DataError(
                    f"{path}, row {first + len(rows) + 1} is longer than {MAX_ROW_BYTES:,} bytes; split its text "
                    "over several rows, or choose --on-bad-text skip."
                )
            if not is_too_long:
                rows.append(row)
                size += length
            if size >= chunk_bytes or is_too_long:
                met = Intake(documents=1, dropped=Counter([TOO_LONG])) if is_too_long else None
                yield Chunk(path, "rows", first, tuple(rows), num_bytes, intake=met)
                first += len(rows) + is_too_long
                rows, size, num_bytes = [], 0, 0
    if rows:
        yield Chunk(path, "rows", first, tuple(rows), num_bytes)
