"""Documents of one JSON Lines file: one object per line, the text under one key.

`datasets` reads JSON Lines too, but names a broken line by its row within a chunk and the file only in a log,
turns a missing column into nulls without a word, and decodes invalid UTF-8 without an offset.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from data_prep.documents import Document, Intake, bounded, decode
from data_prep.options import BadText
from pretrain.errors import DataError

# A JSON string must be parsed whole: a line takes up to some five times its size while it is.
MAX_JSON_LINE_BYTES = 1 << 27


def read_jsonl(path: Path, column: str, on_bad_text: BadText, intake: Intake) -> Iterator[Document]:
    """The texts under `column`; raises DataError with file and line for a line that has none."""
    number, position = 0, 0
    with path.open("rb") as file:
        while line := file.readline(MAX_JSON_LINE_BYTES + 1):
            number, offset, position = number + 1, position, position + len(line)
            intake.bytes_read += len(line)
            where = f"{path}:{number}"
            if len(line) > MAX_JSON_LINE_BYTES:
                raise DataError(
                    f"{where} is longer than {MAX_JSON_LINE_BYTES} bytes; split its text over several lines."
                )
            if line.isspace():
                continue
            decoded = decode(line, path, offset, on_bad_text, intake)
            if decoded is None:
                continue
            text = _well_formed(_text_of(decoded, column, where), where, on_bad_text, intake)
            if text is None:
                continue
            for piece in bounded(text, intake):
                document = intake.keep(where, piece.decode())
                if document is not None:
                    yield document


def _text_of(line: str, column: str, where: str) -> str:
    try:
        row = json.loads(line.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}"))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where} is not valid JSON ({error.msg} at column {error.colno}); repair or remove the line."
        ) from None
    except (RecursionError, ValueError) as error:
        raise DataError(f"{where} cannot be read as JSON ({error}); repair or remove the line.") from None
    if not isinstance(row, dict):
        raise DataError(
            f"{where} holds a JSON {_kind(row)} where an object with the key {column!r} is expected."
        )
    if column not in row:
        found = ", ".join(repr(key) for key in row) or "none"
        raise DataError(f"{where} has no column {column!r}; it has {found}: choose one with --text-column.")
    text = row[column]
    if not isinstance(text, str):
        raise DataError(f"{where}: the column {column!r} holds a {_kind(text)} where text is expected.")
    return text


def _well_formed(text: str, where: str, on_bad_text: BadText, intake: Intake) -> bytes | None:
    """UTF-8 of the text; an escaped half of a surrogate pair has none and is treated like invalid UTF-8."""
    try:
        return text.encode()
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
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def _kind(value: object) -> str:
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "list", dict: "object"}
    return names.get(type(value), "null")
