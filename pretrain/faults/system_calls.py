"""What a save asks of the operating system, call by call: counted, recorded, refused, or the last of the process."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Everything that changes a file system, and what forces it to disk.
CALLS = ("mkdir", "open", "write", "fsync", "close", "rename", "replace", "unlink", "rmdir")


@contextmanager
def before_each(notice: Callable[[str, Any], None]) -> Iterator[None]:
    """Inside, `notice(name, first argument)` is called before each of `CALLS`; what it raises, the call raises."""

    def noticed(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            notice(name, args[0])
            return original(*args, **options)

        return call

    originals = {name: getattr(os, name) for name in CALLS}
    try:
        for name, original in originals.items():
            setattr(os, name, noticed(name, original))
        yield
    finally:
        for name, original in originals.items():
            setattr(os, name, original)


def path_of(subject: Any) -> Path:
    """What a call is about: a path, or the file behind a descriptor."""
    return Path(os.readlink(f"/proc/self/fd/{subject}") if isinstance(subject, int) else os.fsdecode(subject))


def recorded(action: Callable[[], object]) -> list[tuple[str, Path]]:
    """Name and subject of every call that `action` makes."""
    calls: list[tuple[str, Path]] = []
    with before_each(lambda name, subject: calls.append((name, path_of(subject)))):
        action()
    return calls


def killed_before(number: int, action: Callable[[], object]) -> bool:
    """Forks a process that does `action` and is killed before that call, counted from 0; whether it got so far."""
    child = os.fork()
    if child == 0:
        left = number

        def count(name: str, subject: Any) -> None:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

        try:
            with before_each(count):
                action()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])
