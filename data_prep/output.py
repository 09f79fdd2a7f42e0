"""The output folder: claimed by one process, never half-written, never somebody else's.

Beside STORE there may lie, hidden: `.STORE.lock`, held while a build runs (the system frees it when the
process dies, however it dies); `.STORE.partial`, the store being built, and `.STORE.journal`, from which a build
with `--resume` goes on; `.STORE.old`, a store that is being replaced. What a killed build left behind is put right
by the next one that claims the folder.
"""

import errno
import fcntl
import glob
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from data_prep.journal import Journal
from pretrain.data.store import MANIFEST_NAME, REPORT_NAME, partial_path
from pretrain.errors import DataError, UsageError

_POLL_SECONDS = 0.5


def is_store(output: Path) -> bool:
    """Whether a finished store lies there (whole or damaged)."""
    return (output / MANIFEST_NAME).is_file()


class AnotherBuild(UsageError):
    """What lies there, interrupted, is not what is asked for; it is kept."""


def check_output(output: Path, *, overwrite: bool) -> None:
    """Raises UsageError where a build could not or must not write."""
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output {output} is a file; give the path of a folder.")
    if is_store(output):
        if not overwrite:
            raise UsageError(f"--output {output} is a token store already; use --overwrite or another path.")
    elif output.is_dir() and any(output.iterdir()):
        raise UsageError(f"--output {output} is a folder that is not a token store; choose another path.")


def check_apart(paths: Iterable[str], output: Path) -> None:
    """Raises UsageError for an output inside a folder that is read: its files would be read as text."""
    for given in paths:
        for found in [given, *glob.iglob(given, recursive=True)] if glob.has_magic(given) else [given]:
            folder = Path(found)
            if folder.is_dir() and output.resolve().is_relative_to(folder.resolve()):
                raise UsageError(
                    f"--output {output} lies in --input {found}, all of which is read, so that the store would be read "
                    "as text; choose a path outside."
                )


def check_empty(output: Path) -> None:
    """Raises UsageError unless there is nothing at the output yet."""
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise UsageError(f"--output {output} exists already; choose another path.")


@contextmanager
def claimed(output: Path, *, say: Callable[[str], None], wait: bool, resume: bool = False) -> Iterator[None]:
    """Hold the output for this process.

    Leftovers of an earlier build are cleared before, unless they are to be resumed; those of this one are kept
    if it can be resumed: not where input or options are wrong and nothing was saved yet. Raises UsageError if the
    place cannot be written or (unless `wait`) another process holds it.
    """
    made = [folder for folder in output.parents if not folder.exists()]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        lock = _acquire(_sibling(output, "lock"), output, say, wait)
    except OSError as error:
        above = next((folder for folder in output.parents if folder.exists()), output.parent)
        why = error.strerror or error if above.is_dir() else f"{above} is a file"
        raise UsageError(f"--output {output} cannot be written: {why}.") from None
    is_resumable = False
    try:
        _recover(output, say, resume=resume)
        yield
    except AnotherBuild:
        is_resumable = True
        raise
    except (UsageError, DataError):
        journal = Journal.load(journal_path(output))
        is_resumable = journal is not None and journal.bytes_done > 0
        if is_resumable:
            say(
                f"What is built of {output} is kept: with the same input and options (--on-bad-text replace or skip "
                "instead of error count as the same) --resume goes on from it."
            )
        raise
    except BaseException:
        is_resumable = journal_path(output).exists()
        raise
    finally:
        if not is_resumable:
            discard_partial(output)
        _sibling(output, "lock").unlink(missing_ok=True)
        lock.close()
        _remove_empty(made)


def journal_path(output: Path) -> Path:
    """Where an unfinished build writes how far it has come."""
    return _sibling(output, "journal")


def discard_partial(output: Path) -> None:
    """Remove an unfinished build: its journal first, for without it nothing goes on from the rest."""
    journal_path(output).unlink(missing_ok=True)
    shutil.rmtree(partial_path(output), ignore_errors=True)


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


def _remove_empty(folders: list[Path]) -> None:
    """Of folders, innermost first, those that hold nothing: a build that was refused leaves none behind."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:  # somebody's build lies there
            return


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


def _recover(output: Path, say: Callable[[str], None], *, resume: bool) -> None:
    """Undo what a killed build left: its partial store, or a replacement caught half-way."""
    partial, old = partial_path(output), _sibling(output, "old")
    if not (partial.exists() and journal_path(output).exists() and resume):
        if partial.exists():
            hint = "" if resume else " (--resume would have gone on from it)"
            say(
                f"An earlier build of {output} was interrupted; what it left is removed and built anew{hint}."
            )
        discard_partial(output)
    if old.exists() and not output.exists():
        old.rename(output)
    elif old.exists():
        shutil.rmtree(old)
