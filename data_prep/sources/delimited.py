"""The text column of CSV and TSV files, which begin with a line of column names.

What separates their fields is a comma, in .tsv a tab, unless the first line of the first file has none and one of
the others: a semicolon, a tab, a comma or a bar.

They are read by `csv`: `datasets` takes the texts "NA" and "null" for missing and a column of digits for
numbers, and pyarrow's reader refuses a row longer than its block. Quoting is checked: a quote that is never closed
would otherwise swallow the rest of the file into one text.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_prep.sources.chunks import line_runs
from data_prep.sources.content import Content, opened_content
from data_prep.sources.files import InputFile, compression_of
from data_prep.sources.rows import MAX_ROW_BYTES, Batch
from pretrain.errors import DataError, UsageError

DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
_ROWS_PER_BATCH = 256
_SAMPLE_BYTES = 1 << 16
_SHOWN_CHARACTERS = 40


def delimited_batches(
    content: Content, file: InputFile, column: str, delimiter: str | None, chunk_bytes: int
) -> Iterator[Batch]:
    """All rows; raises DataError, with the line, for broken quoting and for a row of another length.

    `delimiter` None: that of the file's suffix.
    """
    records = _records(_lines(content, file.path, chunk_bytes), file, delimiter)
    names = next(records, None)
    if names is None:
        return
    index = _index_of(column, names, file, delimiter)
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


def delimited_sample(file: InputFile, delimiter: str | None, num_rows: int) -> list[list[str]]:
    """The column names and the first rows."""
    with opened_content(file, block_bytes=_SAMPLE_BYTES) as content:
        records = _records(_lines(content, file.path, _SAMPLE_BYTES), file, delimiter)
        return [record for record, _ in zip(records, range(num_rows + 1), strict=False)]


def find_delimiter(files: Iterable[InputFile]) -> str | None:
    """What separates the fields of all delimited files, where it is not what the suffix says; the first of them that
    has a line decides. Raises UsageError where it may be one or another."""
    for file in files:
        if file.format != "csv":
            continue
        with opened_content(file, block_bytes=_SAMPLE_BYTES) as content:
            lines = next(
                (lines for lines in _runs(content, file.path, _SAMPLE_BYTES) if not lines.isspace()), ""
            )
        if not lines:
            continue
        widths = {delimiter: _num_names(lines, delimiter) for delimiter in DELIMITERS}
        found = [delimiter for delimiter, width in widths.items() if width > 1]
        if not found or _usual_delimiter(file) in found:
            return None
        if len(found) > 1:
            several = " and ".join(DELIMITERS[delimiter] for delimiter in found)
            raise UsageError(
                f"{file.path}: its first line has {several}, and each may separate its columns; write the file again "
                f"with {DELIMITERS[_usual_delimiter(file)]} between them."
            )
        return found[0]
    return None


def check_names(names: list[str], file: InputFile) -> None:
    """Raises UsageError for two columns of one name."""
    double = [name for name, count in Counter(names).items() if name and count > 1]
    if double:
        raise UsageError(
            f"{file.path} has several columns named {_shown(double)}; give each a name of its own."
        )


def _index_of(column: str, names: list[str], file: InputFile, delimiter: str | None) -> int:
    if column not in names:
        separator = DELIMITERS[delimiter or _usual_delimiter(file)]
        raise DataError(
            f"{file.path} has no column {column!r}; its first line, cut at each {separator.split()[1]}, names "
            f"{_shown(names)}: choose one with --text-column, or put such a line before the rows."
        )
    check_names(names, file)
    return names.index(column)


def _shown(names: list[str]) -> str:
    """Names, long ones cut."""
    return ", ".join(
        repr(name if len(name) <= _SHOWN_CHARACTERS else f"{name[:_SHOWN_CHARACTERS]}...") for name in names
    )


def _num_names(lines: str, delimiter: str) -> int:
    """Fields of the first record that is not blank; 0 where its quotes do not fit the delimiter."""
    csv.field_size_limit(MAX_ROW_BYTES)
    try:
        return next(
            (
                len(row)
                for row in csv.reader(io.StringIO(lines, newline=""), delimiter=delimiter, strict=True)
                if row
            ),
            0,
        )
    except csv.Error:
        return 0


def _usual_delimiter(file: InputFile) -> str:
    inner = file.path.with_suffix("") if compression_of(file.path) else file.path
    return "\t" if inner.suffix.lower() == ".tsv" else ","


def _lines(content: Content, path: Path, chunk_bytes: int) -> Iterator[str]:
    """Lines of text, bytes that are no UTF-8 escaped."""
    for lines in _runs(content, path, chunk_bytes):
        yield from io.StringIO(lines, newline="")


def _runs(content: Content, path: Path, chunk_bytes: int) -> Iterator[str]:
    for _, lines in line_runs(content, path, "error", chunk_bytes):
        yield (lines or b"").decode(errors="surrogateescape")


def _records(lines: Iterator[str], file: InputFile, delimiter: str | None) -> Iterator[list[str]]:
    """The fields of each row, all of them as many as the first has; blank lines are left out."""
    csv.field_size_limit(MAX_ROW_BYTES)
    reader = csv.reader(lines, delimiter=delimiter or _usual_delimiter(file), strict=True)
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
