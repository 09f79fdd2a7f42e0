"""The output folder: claimed by one process, never half-written, never somebody else's.

Beside STORE there may lie, hidden: `.STORE.lock`, held while a build runs (the system frees it when the
process dies, however it dies); `.STORE.partial`, the store being built; `.STORE.old`, a store that is being
replaced. What a killed build left behind is put right by the next one that claims the folder.
"""

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from pretrain.data.store import MANIFEST_NAME, REPORT_NAME, partial_path
from pretrain.errors import UsageError

_POLL_SECONDS = 0.5


def is_store(output: Path) -> bool:
    """Whether a finished store lies there (whole or damaged)."""
    return (output / MANIFEST_NAME).is_file()


def check_output(output: Path, *, overwrite: bool) -> None:
    """Raises UsageError where a build could not or must not write."""
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output {output} is a file; give the path of a folder.")
    if is_store(output):
        if not overwrite:
            raise UsageError(f"--output {output} is a token store already; use --overwrite or another path.")
    elif output.is_dir() and any(output.iterdir()):
        raise UsageError(f"--output {output} is a folder that is not a token store; choose another path.")


def check_empty(output: Path) -> None:
    """Raises UsageError unless there is nothing at the output yet."""
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise UsageError(f"--output {output} exists already; choose another path.")


@contextmanager
def claimed(output: Path, *, say: Callable[[str], None], wait: bool) -> Iterator[None]:
    """Hold the output for this process; leftovers are cleared before, and what is unfinished after.

    Raises UsageError if the place cannot be written or (unless `wait`) another process holds it.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        lock = _acquire(_sibling(output, "lock"), output, say, wait)
    except OSError as error:
        raise UsageError(f"--output {output} cannot be written: {error.strerror or error}.") from None
    try:
        _recover(output, say)
        yield
    finally:
        shutil.rmtree(partial_path(output), ignore_errors=True)
        _sibling(output, "lock").unlink(missing_ok=True)
        lock.close()


@contextmanager
def making_way(output: Path) -> Iterator[None]:
    """While the new store gets its name: an old one steps aside, and comes back on failure."""
    old = _sibling(output, "old")
    if output.is_dir() and not is_store(output):
        output.rmdir()  # empty: `check_output` has seen to that
    elif output.exists():
        output.rename(old)
    try:
        yield
    except BaseException:
        if old.exists() and not output.exists():
            old.rename(output)
        raise
    shutil.rmtree(old, ignore_errors=True)


def read_report(output: Path) -> dict[str, Any]:
    """report.json of a store, empty if it cannot be read."""
    try:
        report = json.loads((output / REPORT_NAME).read_bytes())
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}


def _sibling(output: Path, kind: str) -> Path:
    return output.with_name(f".{output.name}.{kind}")


def _acquire(path: Path, output: Path, say: Callable[[str], None], wait: bool) -> TextIO:
    """An open, locked file that holds this process's id."""
    has_said = False
    while True:
        lock = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # Some network file systems have no locks; two builds of one store there are the user's affair.
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                return lock
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            lock.close()
            if not wait:
                raise UsageError(
                    f"--output {output} is being built by {holder}; wait for it, or choose another path."
                ) from None
            if not has_said:
                say(f"Waiting for {holder}, which is building {output} ...")
                has_said = True
            time.sleep(_POLL_SECONDS)
            continue
        # The holder before us may have removed the file between our open and our lock.
        if _is_same(path, lock):
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {os.uname().nodename}\n")
            lock.flush()
            return lock
        lock.close()


def _is_same(path: Path, lock: TextIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(lock.fileno()))
    except FileNotFoundError:
        return False


def _recover(output: Path, say: Callable[[str], None]) -> None:
    """Undo what a killed build left: its partial store, or a replacement caught half-way."""
    partial, old = partial_path(output), _sibling(output, "old")
    if partial.exists():
        say(f"An earlier build of {output} was interrupted; what it left is removed and built anew.")
        shutil.rmtree(partial)
    if old.exists() and not output.exists():
        old.rename(output)
    elif old.exists():
        shutil.rmtree(old)
