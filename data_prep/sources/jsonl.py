"""The texts of JSON Lines: one object per line, the text under one key.

`datasets` reads JSON Lines too, but names a broken line by its row within a chunk and the file only in a log,
turns a missing column into nulls without a word, and decodes invalid UTF-8 without an offset.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.documents import Intake, repair
from data_prep.options import BadText
from data_prep.sources.boundaries import documents_in
from data_prep.sources.content import line_number
from pretrain.errors import DataError


@dataclass(frozen=True)
class LineAt:
    """The line of a file that begins at byte `offset` of its content; its number is counted when it is asked for."""

    path: str
    offset: int

    def __str__(self) -> str:
        return f"{self.path}:{line_number(Path(self.path), self.offset)}"


def texts_in(
    content: bytes, path: str, offset: int, column: str, on_bad_text: BadText, intake: Intake
) -> Iterator[str]:
    """The texts under `column`, nulls dropped; raises DataError with file and line for a line that has none.

    The lines begin at byte `offset` of the (decompressed) file.
    """
    for position, line in documents_in(content, newlines=1):
        try:
            decoded: str | None = line.decode()
        except UnicodeDecodeError as error:
            decoded = repair(error, path, offset + position, on_bad_text, intake)
        if decoded is None:
            continue
        where = LineAt(path, offset + position)
        text = _text_of(parse_object(decoded, where), column, where)
        if text is None:
            intake.drop("null text")
            continue
        text = _well_formed(text, where, on_bad_text, intake)
        if text is not None:
            yield text


def parse_object(line: str, where: object) -> dict[str, Any]:
    """The object of one line; raises DataError for anything else. `where` names the line, as a str."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where} is not valid JSON ({error.msg} at column {error.colno}); JSON Lines have one object per line: "
            "repair or remove the line, or convert the file."
        ) from None
    except (RecursionError, ValueError) as error:
        raise DataError(f"{where} cannot be read as JSON ({error}); repair or remove the line.") from None
    if not isinstance(row, dict):
        raise DataError(f"{where} holds a JSON {_kind(row)} where an object is expected, one per line.")
    return row


def _text_of(row: dict[str, Any], column: str, where: LineAt) -> str | None:
    if column not in row:
        found = ", ".join(repr(key) for key in row) or "none"
        raise DataError(f"{where} has no column {column!r}; it has {found}: choose one with --text-column.")
    text = row[column]
    if text is not None and not isinstance(text, str):
        raise DataError(f"{where}: the column {column!r} holds a {_kind(text)} where text is expected.")
    return text


def _well_formed(text: str, where: LineAt, on_bad_text: BadText, intake: Intake) -> str | None:
    """The text; an escaped half of a surrogate pair has no UTF-8 and is treated like invalid UTF-8."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        if on_bad_text == "error":
            raise DataError(
                f"{where}: its text has half of a surrogate pair, which is not valid Unicode; "
                "repair the line, or choose --on-bad-text replace or skip."
            ) from None
    if on_bad_text == "skip":
        intake.drop("invalid UTF-8")
        return None
    intake.repaired += 1
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _kind(value: object) -> str:
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "list", dict: "object"}
    return names.get(type(value), "null")
