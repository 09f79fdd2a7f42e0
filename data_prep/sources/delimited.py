"""The text column of CSV and TSV files, which begin with a line of column names.

What separates their fields is a comma, in .tsv a tab, unless the first line of the first file has none and one of
the others: a semicolon, a tab, a comma or a bar. A line `sep=;` before it, which Excel writes, says it for its file.
Blank lines are left out. The names of the columns must be UTF-8 without NUL, so that a file in UTF-16 is known for one.

They are read by `csv`: `datasets` takes the texts "NA" and "null" for missing and a column of digits for
numbers, and pyarrow's reader refuses a row longer than its block. Quoting is checked: a quote that is never closed
would otherwise swallow the rest of the file into one text.
"""

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
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
_NAMES_DELIMITER = re.compile(r'"?sep=(.)"?[\r\n]*', re.IGNORECASE)


@dataclass(frozen=True)
class _Table:
    """A delimited file behind the first lines that are blank or name the delimiter, `num_lines_before` in all.

    Both iterators give its lines as text. From `header`, which has no bytes that are not UTF-8, the names of the
    columns are to be read; what follows them is in `lines`, such bytes escaped.
    """

    header: Iterator[str]
    lines: Iterator[str]
    num_lines_before: int
    delimiter: str
    names_delimiter: bool = False


def delimited_batches(
    content: Content, file: InputFile, column: str, delimiter: str | None, chunk_bytes: int
) -> Iterator[Batch]:
    """All rows; raises DataError, with the line, for broken quoting and for a row of another length.

    `delimiter` None: that of the file's suffix.
    """
    table = _opened_table(content, file, delimiter, chunk_bytes)
    records = _records(table, file)
    names = next(records, None)
    if names is None:
        return
    index = _index_of(column, names, file, table.delimiter)
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
        records = _records(_opened_table(content, file, delimiter, _SAMPLE_BYTES), file)
        return [record for record, _ in zip(records, range(num_rows + 1), strict=False)]


def find_delimiter(files: Iterable[InputFile]) -> str | None:
    """What separates the fields of all delimited files, where it is not what the suffix says; the first of them that
    has a line decides. Raises UsageError where it may be one or another."""
    for file in files:
        if file.format != "csv":
            continue
        with opened_content(file, block_bytes=_SAMPLE_BYTES) as content:
            table = _opened_table(content, file, None, _SAMPLE_BYTES)
            lines = _first_lines(table)
        if not lines:
            continue
        if table.names_delimiter:
            return None if table.delimiter == _usual_delimiter(file) else table.delimiter
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


def _index_of(column: str, names: list[str], file: InputFile, delimiter: str) -> int:
    if column not in names:
        raise DataError(
            f"{file.path} has no column {column!r}; its first line, {_cut_at(delimiter)}, names "
            f"{_shown(names)}: choose one with --text-column, or put such a line before the rows."
        )
    check_names(names, file)
    return names.index(column)


def _cut_at(delimiter: str) -> str:
    return f"cut at each {DELIMITERS[delimiter].split()[1]}"


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


def _opened_table(content: Content, file: InputFile, delimiter: str | None, chunk_bytes: int) -> _Table:
    """The file behind its blank lines and the line that names the delimiter; raises UsageError for one not known."""
    lines = _lines(content, file.path, chunk_bytes)
    checked = _checked(lines, content.offset, file.path)
    chosen, named, num_before = delimiter or _usual_delimiter(file), None, 0
    for line in checked:
        found = None if named else _NAMES_DELIMITER.fullmatch(line)
        if found:
            chosen = named = found[1]
            if named not in DELIMITERS:
                raise UsageError(
                    f"{file.path}: its first line, {line.strip()!r}, names what separates the columns, which is none "
                    f"of {', '.join(DELIMITERS.values())}; write the file again with one of these."
                )
        elif not line.isspace():
            return _Table(itertools.chain([line], checked), lines, num_before, chosen, named is not None)
        num_before += 1
    return _Table(iter(()), lines, num_before, chosen)


def _first_lines(table: _Table) -> str:
    """Of about `_SAMPLE_BYTES`, from the names of the columns on; empty where there are none."""
    parts, size = list(itertools.islice(table.header, 1)), 0
    for line in table.lines if parts else ():
        parts.append(line)
        size += len(line)
        if size >= _SAMPLE_BYTES:
            break
    return "".join(parts)


def _checked(lines: Iterator[str], offset: int, path: Path) -> Iterator[str]:
    """The lines, the first of which begins at byte `offset`; raises DataError for bytes that no name has."""
    for line in lines:
        content = line.encode(errors="surrogateescape")
        try:
            content.decode()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path} is not valid UTF-8 at byte {offset + error.start} ({error.reason}); convert the file: this is "
                "where the names of its columns are, which cannot be left out or repaired."
            ) from None
        if "\0" in line:
            raise DataError(
                f"{path} has a NUL at byte {offset + content.index(0)}, in the names of its columns, as a file in "
                "UTF-16 has; convert the file to UTF-8."
            )
        yield line
        offset += len(content)


def _lines(content: Content, path: Path, chunk_bytes: int) -> Iterator[str]:
    """Lines of text, bytes that are no UTF-8 escaped."""
    for _, lines in line_runs(content, path, "error", chunk_bytes):
        yield from io.StringIO((lines or b"").decode(errors="surrogateescape"), newline="")


def _records(table: _Table, file: InputFile) -> Iterator[list[str]]:
    """The names of the columns and the fields of each row, as many as there are names; blank lines are left out."""
    csv.field_size_limit(MAX_ROW_BYTES)
    header = csv.reader(table.header, delimiter=table.delimiter, strict=True)
    rows = csv.reader(table.lines, delimiter=table.delimiter, strict=True)
    try:
        names = next(header, None)
        if names is None:
            return
        yield names
        for record in rows:
            if record and len(record) != len(names):
                number = table.num_lines_before + header.line_num + rows.line_num
                raise DataError(
                    f"{file.path}:{number} has {_fields(len(record))} where the first line has {len(names)} "
                    f"({_shown(names)}), all {_cut_at(table.delimiter)}; put the names of the columns in the first "
                    'line, and texts with a delimiter or a newline in them between quotes ("...").'
                )
            if record:
                yield record
    except csv.Error as error:
        number = table.num_lines_before + header.line_num + rows.line_num
        raise DataError(
            f"{file.path}:{number} is not valid CSV ({error}); repair the quotes there or before."
        ) from None


def _fields(count: int) -> str:
    return f"{count} field" if count == 1 else f"{count} fields"
