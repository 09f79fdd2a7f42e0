"""Files of JSON objects, one a line, of any length and from anywhere: read as a stream, one bounded line in memory."""

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pretrain.errors import DataError
from pretrain.files import json_object, kind_problem, read_bounded

MAX_LINE_BYTES = 1 << 20
MAX_CONFIG_BYTES = 1 << 22
_BLOCK_BYTES = 1 << 20


def count_lines(path: Path) -> int:
    """Those that `read_lines` may give; 0 where the file is not there. Raises DataError where it is no regular file."""
    if not _is_there(path):
        return 0
    with open(path, "rb") as file:
        blocks = iter(lambda: file.read(_BLOCK_BYTES), b"")
        return sum(block.count(b"\n") for block in blocks)


def read_lines(path: Path) -> Iterator[dict[str, Any] | None]:
    """The object of each line; None for a damaged one. A last line without an end is being written, and left out."""
    if not _is_there(path):
        return
    with open(path, "rb") as file:
        while line := file.readline(MAX_LINE_BYTES):
            if not line.endswith(b"\n"):
                if len(line) < MAX_LINE_BYTES:
                    return
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE_BYTES)
                yield None
                continue
            if line.isspace():
                continue
            try:
                yield json_object(line)
            except ValueError:
                yield None


def read_object(path: Path) -> dict[str, Any]:
    """A whole file; empty where it is not there. Raises DataError for one that is damaged, too long or no file."""
    try:
        return json_object(read_bounded(path, MAX_CONFIG_BYTES))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DataError(f"{path} holds no JSON object ({error}).") from None


def _is_there(path: Path) -> bool:
    if not path.exists() and not path.is_symlink():
        return False
    problem = kind_problem(str(path), stat.S_ISREG, "regular file")
    if problem is not None:
        raise DataError(problem)
    return True
