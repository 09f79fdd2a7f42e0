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

from pretrain.errors import DataError
from pretrain.files import changed_at, kind_problem, too_short

_CHUNK_BYTES = 1 << 22
_MAX_NAME_CHARACTERS = 1000
_ORDINARY_NAME = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]*/)*[A-Za-z0-9][A-Za-z0-9._-]*")


class Sized(Protocol):
    """What a manifest says of a file."""

    @property
    def bytes(self) -> int: ...


class Hashed(Sized, Protocol):
    """The same, with the file's checksum."""

    @property
    def sha256(self) -> str: ...


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
    return (found for _, found in look_at(folder, files) if isinstance(found, str))


def look_at(folder: Path, files: Mapping[str, Sized]) -> Iterator[tuple[str, int | str]]:
    """Of every file when it was last changed (`changed_at`), or what is wrong with it or a folder on its way."""
    bad_folders = []
    for name in sorted(_folders_of(files)):
        problem = kind_problem(f"{folder}/{name}", stat.S_ISDIR, "folder")
        if problem is not None:
            bad_folders.append(f"{name}/")
            yield name, problem
    for name, entry in files.items():
        if not bad_folders or not name.startswith(tuple(bad_folders)):
            yield name, changed_at(f"{folder}/{name}", entry.bytes)


def check_reaches(path: str, num_bytes: int) -> None:
    """Raises DataError naming the file if it has fewer bytes."""
    try:
        actual_bytes = os.stat(path).st_size
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    if actual_bytes < num_bytes:
        raise too_short(path)


class OpenFiles:
    """The files of an open store: whether each still is what it was when the store was opened.

    A file that was touched since is hashed again, once: it may be the same all the same (a backup's link, chmod).
    """

    def __init__(self, folder: Path, files: Mapping[str, Hashed], changed_ns: dict[str, int]) -> None:
        self._folder = folder
        self._files = files
        self._changed_ns = changed_ns

    def path(self, name: str) -> str:
        return f"{self._folder}/{name}"

    def check(self, name: str) -> None:
        """Raises DataError naming the file if its content is another one now."""
        path = self.path(name)
        found = changed_at(path, self._files[name].bytes)
        if found == self._changed_ns[name]:
            return
        if isinstance(found, str):
            raise DataError(f"{found} It has changed while it was in use: copy or build the store again.")
        if sha256_of(Path(path)) != self._files[name].sha256:
            raise DataError(
                f"{path} has changed while it was in use: its sha256 is not the manifest's; copy or build the store "
                "again."
            )
        self._changed_ns[name] = found


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
