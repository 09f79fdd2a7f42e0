"""Files that lie on disk when a function returns, by plain system calls, each of which may be a process's last."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pretrain.errors import PretrainError


@dataclass(frozen=True)
class Written:
    """Size and hex digest of a file, taken while it was written."""

    bytes: int
    sha256: str


def write_file(path: Path, parts: Iterable[memoryview]) -> Written:
    """Writes a new file from `parts`, each a run of bytes, and forces it to disk. Raises OSError."""
    digest, size = hashlib.sha256(), 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        for part in parts:
            digest.update(part)
            while part:
                count = os.write(descriptor, part)
                part, size = part[count:], size + count
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return Written(size, digest.hexdigest())


def write_text(path: Path, text: str) -> None:
    """`write_file` of a whole text in UTF-8."""
    write_file(path, [memoryview(text.encode("utf-8"))])


def sync(path: Path) -> None:
    """Forces a file or a folder's entries to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_bytes(path: Path) -> int:
    """Of the file system that `path` lies or will lie on, what an ordinary user may still fill."""
    while not path.exists() and path != path.parent:
        path = path.parent
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def refusal(error: OSError, path: Path, needed: int | None = None) -> str:
    """What the system said: the path, `path` where it names none, the bytes needed, if known, and those free."""
    free = "an unknown number"
    with suppress(OSError):
        free = f"{free_bytes(path):,}"
    room = f"{free} bytes free" if needed is None else f"{needed:,} bytes needed, {free} free"
    return f"{error.filename2 or error.filename or path}: {error.strerror or error}; {room}"


@contextmanager
def naming(path: Path, needed: int) -> Iterator[None]:
    """Turns an OSError of its block into a PretrainError that says the path, the bytes needed and those free.

    A file that was begun at `path` goes first, so that the bytes free are those there were for it.
    """
    try:
        yield
    except OSError as error:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        raise PretrainError(refusal(error, path, needed)) from None
