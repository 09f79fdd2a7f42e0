"""Files that may come from anywhere: of the kind and size they should be, bounded in length and depth, and sealed.

A token store or a checkpoint may have been copied, cut short or made by somebody else, so that nothing is read before
it is known to be a regular file, reached by no symbolic link, of a size that such a file can have.

A *sealed* JSON file ends with a checksum of all of its bytes but the checksum's own 64 digits, as FORMAT.md of the
token store and the README of the checkpoint say.
"""

import hashlib
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydantic_core import from_json

from pretrain.errors import DataError

_SEAL_KEY = b"manifest_sha256"
_SEAL = re.compile(rb',\n "' + _SEAL_KEY + rb'": "([0-9a-f]{64})"\n}\n\Z')
_MAX_SEAL_BYTES = 100


def kind_problem(path: str, is_kind: Callable[[int], bool], kind: str) -> str | None:
    """A sentence unless `path` is of that kind (`stat.S_ISREG`, ...) and no symbolic link."""
    try:
        mode = os.lstat(path).st_mode
    except OSError as error:
        return f"{path} cannot be read: {error.strerror or error}."
    if stat.S_ISLNK(mode):
        return f"{path} is a symbolic link; what belongs to a folder lies in it: copy the file there."
    if not is_kind(mode):
        return f"{path} is not a {kind}."
    return None


def size_problem(path: str, num_bytes: int) -> str | None:
    """A sentence unless `path` is a regular file of that size."""
    found = changed_at(path, num_bytes)
    return found if isinstance(found, str) else None


def changed_at(path: str, num_bytes: int) -> int | str:
    """When a regular file of that size was last changed, in ns (`st_ctime_ns`); a sentence where it is none."""
    try:
        found = os.lstat(path)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror or error}."
    if not stat.S_ISREG(found.st_mode):
        return kind_problem(path, stat.S_ISREG, "regular file") or f"{path} changes all the time."
    if found.st_size != num_bytes:
        return f"{path} has {found.st_size} bytes, the manifest says {num_bytes}."
    return found.st_ctime_ns


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Content of a regular file; raises OSError where it cannot be read, DataError where it is no such file."""
    size = os.lstat(path).st_size
    problem = kind_problem(str(path), stat.S_ISREG, "regular file")
    if problem is not None:
        raise DataError(problem)
    if size > max_bytes:
        raise DataError(f"{path} has {size} bytes, more than the {max_bytes} that such a file can have.")
    return path.read_bytes()


def read_items(path: str, dtype: np.dtype, start: int, count: int, first_byte: int = 0) -> np.ndarray:
    """[count] items from number `start` on, the first of all being at `first_byte`; a copy.

    Raises DataError naming the file if it has fewer. Read and not mapped: a mapped file that
    is cut short meanwhile ends the process by SIGBUS.
    """
    try:
        items = np.fromfile(path, dtype=dtype, count=count, offset=first_byte + start * dtype.itemsize)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    if len(items) != count:
        raise too_short(path)
    return items


def too_short(path: str) -> DataError:
    """Of a file whose size was right when it was opened."""
    return DataError(f"{path} became shorter while it was in use; copy or make it again.")


def json_object(content: bytes) -> dict[str, Any]:
    """Raises ValueError for what is no JSON object, holds NaN or is nested too deep."""
    found = from_json(content, allow_inf_nan=False)
    if not isinstance(found, dict):
        raise ValueError(f"a JSON object was expected, not a {type(found).__name__}")
    return found


def sealed(body: bytes) -> bytes:
    """`body`, a JSON object indented by 1 that ends with a newline and a brace, with its checksum as the last key."""
    body = body.removesuffix(b"\n").removesuffix(b"\n}") + b',\n "' + _SEAL_KEY + b'": "'
    return body + _own_checksum(body + b'"\n}\n') + b'"\n}\n'


def unsealed(content: bytes) -> bytes | None:
    """The body that was sealed; None where the checksum is missing or another one."""
    found = _SEAL.search(content, max(0, len(content) - _MAX_SEAL_BYTES))
    if found is None or found[1] != _own_checksum(content[: found.start(1)] + content[found.end(1) :]):
        return None
    return content[: found.start()] + b"\n}\n"


def _own_checksum(without_digits: bytes) -> bytes:
    return hashlib.sha256(without_digits).hexdigest().encode()
