"""Which column holds the text: the one that was named; else "text"; else the only one that holds strings.

It is decided once, from the first file that has columns, so that it is the same for all files and workers.
"""

import re
from collections.abc import Iterable, Mapping

from data_prep.sources.boundaries import documents_in
from data_prep.sources.chunks import line_runs
from data_prep.sources.columnar import columnar_schema, is_string
from data_prep.sources.content import Content, opened_content
from data_prep.sources.delimited import check_names, delimited_sample
from data_prep.sources.files import InputFile
from data_prep.sources.jsonl import LineAt, parse_object
from pretrain.errors import UsageError

USUAL_COLUMN = "text"
_SAMPLE_BYTES = 1 << 16
_SAMPLE_ROWS = 100
# What is longer, or has more words, is no name of a column.
_MAX_NAME_CHARACTERS = 80
_MAX_NAME_WORDS = 8
_NUMBER = re.compile(r"\s*[-+]?\d+([.,]\d+)?\s*")


def has_columns(file: InputFile) -> bool:
    return file.format != "text"


def find_column(files: Iterable[InputFile], delimiter: str | None) -> str | None:
    """None where no file has columns; raises UsageError where a file leaves it open. `delimiter` of delimited files."""
    with_columns = [file for file in files if has_columns(file)]
    for file in with_columns:
        columns = _columns(file, delimiter)
        if columns:
            return choose_column(columns, str(file.path))
    return USUAL_COLUMN if with_columns else None


def choose_column(columns: Mapping[str, bool], source: str) -> str:
    """Of columns by name, and whether each holds strings."""
    strings = [name for name, holds_strings in columns.items() if holds_strings]
    if USUAL_COLUMN in columns:
        return USUAL_COLUMN
    if len(strings) == 1:
        return strings[0]
    found = ", ".join(map(repr, strings or columns))
    several = f"several columns of strings ({found})" if strings else f"no column of strings (but {found})"
    raise UsageError(
        f"{source} has no column {USUAL_COLUMN!r} and {several}; name the column of the text with --text-column."
    )


def _columns(file: InputFile, delimiter: str | None) -> dict[str, bool]:
    """Empty for a file without rows and header."""
    if file.format in ("parquet", "arrow"):
        return {field.name: is_string(field.type) for field in columnar_schema(file)}
    if file.format == "jsonl":
        with opened_content(file, block_bytes=_SAMPLE_BYTES) as content:
            return _first_object(content, file)
    names, *rows = [*delimited_sample(file, delimiter, _SAMPLE_ROWS), []][: _SAMPLE_ROWS + 1]
    check_names(names, file)
    if USUAL_COLUMN not in names:
        _check_header(names, file)
    return {name: not _all_numbers([row[i] for row in rows if row]) for i, name in enumerate(names)}


def _check_header(names: list[str], file: InputFile) -> None:
    """Raises UsageError where the first line is plainly a row, not the names of columns."""
    for name in names:
        is_text = (
            len(name) > _MAX_NAME_CHARACTERS
            or len(name.split()) > _MAX_NAME_WORDS
            or "\n" in name.strip()
            or (name.rstrip().endswith((".", "!", "?")) and len(name.split()) > 1)
        )
        if is_text or _NUMBER.fullmatch(name):
            shown = name if len(name) <= _MAX_NAME_CHARACTERS else f"{name[:_MAX_NAME_CHARACTERS]}..."
            raise UsageError(
                f"{file.path} seems to have no header: its first line has {shown!r}, where the names of the columns "
                f"are expected; put a line with the names before it, {USUAL_COLUMN!r} for the text, or, if these are "
                "names, name the column of the text with --text-column."
            )


def _first_object(content: Content, file: InputFile) -> dict[str, bool]:
    for offset, lines in line_runs(content, file.path, "skip", _SAMPLE_BYTES):
        for position, line in documents_in(lines or b"", newlines=1):
            where = LineAt(str(file.path), offset + position)
            row = parse_object(line.decode(errors="replace"), where)
            return {key: isinstance(value, str) for key, value in row.items()}
    return {}


def _all_numbers(values: list[str]) -> bool:
    """Whether a CSV column, in which all is text, is one of numbers."""
    try:
        return bool([float(value) for value in values if value])
    except ValueError:
        return False
