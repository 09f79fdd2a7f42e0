"""The text column of CSV and TSV files, which begin with a line of column names.

They are read by `csv`: `datasets` takes the texts "NA" and "null" for missing and a column of digits for
numbers, and pyarrow's reader refuses a row longer than its block. Quoting is checked: a quote that is never closed
would otherwise swallow the rest of the file into one text.
"""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from data_prep.sources.chunks import line_runs
from data_prep.sources.content import Content
from data_prep.sources.files import InputFile, compression_of
from data_prep.sources.rows import MAX_ROW_BYTES, Batch
from pretrain.errors import DataError

_ROWS_PER_BATCH = 256


def delimited_batches(content: Content, file: InputFile, column: str, chunk_bytes: int) -> Iterator[Batch]:
    """All rows; raises DataError, with the line, for broken quoting and for a row of another length."""
    records = _records(_lines(content, file.path, chunk_bytes), file)
    names = next(records, None)
    if names is None:
        return
    if column not in names:
        found = ", ".join(map(repr, names))
        raise DataError(
            f"{file.path} has no column {column!r}; it has {found}: choose one with --text-column."
        )
    index = names.index(column)
    rows: list[bytes | None] = []
    num_bytes = 0
    for record in records:
        # Bytes that are no UTF-8 come out as they went in.
        row = record[index].encode(errors="surrogateescape")
        rows.append(row)
        num_bytes += len(row)
        if len(rows) == _ROWS_PER_BATCH or num_bytes >= chunk_bytes:
            yield Batch(rows, content.account())
            rows, num_bytes = [], 0
    yield Batch(rows, content.account())


def delimited_sample(content: Content, file: InputFile, chunk_bytes: int, num_rows: int) -> list[list[str]]:
    """The column names and the first rows."""
    records = _records(_lines(content, file.path, chunk_bytes), file)
    return [record for record, _ in zip(records, range(num_rows + 1), strict=False)]


def _lines(content: Content, path: Path, chunk_bytes: int) -> Iterator[str]:
    """Lines of text, bytes that are no UTF-8 escaped."""
    for _, lines in line_runs(content, path, "error", chunk_bytes):
        yield from io.StringIO((lines or b"").decode(errors="surrogateescape"), newline="")


def _records(lines: Iterator[str], file: InputFile) -> Iterator[list[str]]:
    """The fields of each row, all of them as many as the first has; blank lines are left out."""
    csv.field_size_limit(MAX_ROW_BYTES)
    inner = file.path.with_suffix("") if compression_of(file.path) else file.path
    reader = csv.reader(lines, delimiter="\t" if inner.suffix.lower() == ".tsv" else ",", strict=True)
    width = 0
    try:
        for record in reader:
            if record and len(record) != (width or len(record)):
                raise DataError(
                    f"{file.path}:{reader.line_num} has {len(record)} fields where the first line has {width}; "
                    'put texts with a delimiter or a newline in them between quotes ("...").'
                )
            if record:
                width = len(record)
                yield record
    except csv.Error as error:
        raise DataError(
            f"{file.path}:{reader.line_num} is not valid CSV ({error}); repair the quotes there or before."
        ) from None
