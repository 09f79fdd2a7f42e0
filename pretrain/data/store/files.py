"""Files inside a store's folder: names that stay inside it, reads that are bounded, writes that are atomic.

A store may come from anywhere, so that nothing in it is trusted: every name is relative and plain, every file
is a regular file below the store's folder with no symbolic link on the way (the folder itself may be reached
through one), and a manifest has a largest size.
"""

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np

from pretrain.errors import DataError

_CHUNK_BYTES = 1 << 22
_MAX_NAME_CHARACTERS = 1000
_ORDINARY_NAME = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]*/)*[A-Za-z0-9][A-Za-z0-9._-]*")


class Sized(Protocol):
    """What a manifest says of a file."""

    @property
    def bytes(self) -> int: ...


def name_problem(name: str) -> str | None:
    """Why a file's name in a manifest is refused; None for a plain path below the store's folder."""
    if _ORDINARY_NAME.fullmatch(name) and len(name) <= _MAX_NAME_CHARACTERS:
        return None
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        return f"file name {name!r} leaves the store"
    if not path.parts or str(path) != name or not name.isprintable() or len(name) > _MAX_NAME_CHARACTERS:
        return f"file name {name!r} is not a plain path"
    return None


def file_problems(folder: Path, files: Mapping[str, Sized]) -> Iterator[str]:
    """Sentences naming what is missing, reached through a link, no regular file, or of another size."""
    bad_folders = []
    for name in sorted(_folders_of(files)):
        problem = _kind_problem(f"{folder}/{name}", stat.S_ISDIR, "folder")
        if problem is not None:
            bad_folders.append(f"{name}/")
            yield problem
    for name, entry in files.items():
        if bad_folders and name.startswith(tuple(bad_folders)):
            continue
        problem = size_problem(f"{folder}/{name}", entry.bytes)
        if problem is not None:
            yield problem


def size_problem(path: str, num_bytes: int) -> str | None:
    """A sentence unless `path` is a regular file of that size."""
    try:
        found = os.lstat(path)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror or error}."
    if not stat.S_ISREG(found.st_mode):
        return _kind_problem(path, stat.S_ISREG, "regular file")
    if found.st_size != num_bytes:
        return f"{path} has {found.st_size} bytes, the manifest says {num_bytes}."
    return None


def check_reaches(path: str, num_bytes: int) -> None:
    """Raises DataError naming the file if it has fewer bytes."""
    try:
        actual_bytes = os.stat(path).st_size
    except OSError as error:
        raise _unreadable(path, error) from None
    if actual_bytes < num_bytes:
        raise _too_short(path)


def read_items(path: str, dtype: np.dtype, start: int, count: int) -> np.ndarray:
    """[count] items from number `start` on, a copy; raises DataError naming the file if it has fewer."""
    try:
        items = np.fromfile(path, dtype=dtype, count=count, offset=start * dtype.itemsize)
    except OSError as error:
        raise _unreadable(path, error) from None
    if len(items) != count:
        raise _too_short(path)
    return items


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Content of a regular file; raises OSError where it cannot be read, DataError where it is no such file."""
    size = os.lstat(path).st_size
    problem = _kind_problem(str(path), stat.S_ISREG, "regular file")
    if problem is not None:
        raise DataError(problem)
    if size > max_bytes:
        raise DataError(f"{path} has {size} bytes, more than the {max_bytes} that such a file can have.")
    return path.read_bytes()


def write_atomically(path: Path, content: bytes) -> None:
    """Temporary file, fsync, rename, fsync of the folder."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    fsync_folder(path.parent)


def fsync_file(path: Path) -> None:
    """Make the content of a file that another library wrote durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(path: Path) -> None:
    """Make renames and new names in a folder durable."""
    fsync_file(path)


def chunks_of(path: str | Path) -> Iterator[bytes]:
    """The content in pieces of a few MiB."""
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def sha256_of(path: Path) -> str:
    """Hex digits of the content's sha256."""
    digest = hashlib.sha256()
    for chunk in chunks_of(path):
        digest.update(chunk)
    return digest.hexdigest()


def _folders_of(names: Mapping[str, Sized]) -> set[str]:
    """All folders on the way to the named files, relative to the store's."""
    direct = {name.rpartition("/")[0] for name in names}
    return {
        str(parent) for name in direct for parent in (PurePosixPath(name), *PurePosixPath(name).parents)
    } - {"."}


def _kind_problem(path: str, is_kind: "_Kind", kind: str) -> str | None:
    try:
        mode = os.lstat(path).st_mode
    except OSError as error:
        return f"{path} cannot be read: {error.strerror or error}."
    if stat.S_ISLNK(mode):
        return f"{path} is a symbolic link; a store's files lie in its own folder: copy the file there."
    if not is_kind(mode):
        return f"{path} is not a {kind}."
    return None


def _unreadable(path: str, error: OSError) -> DataError:
    return DataError(f"{path} cannot be read: {error.strerror or error}.")


def _too_short(path: str) -> DataError:
    return DataError(f"{path} became shorter while it was in use; copy or build the store again.")


class _Kind(Protocol):
    def __call__(self, mode: int, /) -> bool: ...
