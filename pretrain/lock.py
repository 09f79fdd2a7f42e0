"""Who holds a run folder: one process, found out on one machine or over many, alive or dead.

The lock is a file that says host, process, when the process began, and batch job. While the holder lives it also has a
lock of the kernel on that file, which ends with the process however it ends. So:

1. a starter takes the kernel's lock on the file first; who gets it is alone, and what it then finds cannot change;
2. what the file says of an earlier holder must be stale: a process of this machine that is gone (or whose number
   another process has now: it began at another time), or this very batch job, started again;
3. it writes itself in and keeps both until it gives the folder back.

Nothing is ever deleted but by the holder, under the lock, so that two starters of one stale lock cannot both have it.
Where a file system has no kernel locks, what the file says decides alone.
"""

import errno
import fcntl
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretrain.errors import UsageError

_MAX_BYTES = 1 << 16
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)
_HELD = (errno.EACCES, errno.EAGAIN)


class FolderLock:
    """The lock file at `path`, guarding the folder that it lies in."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def take(self, job: str | None) -> None:
        """Raises UsageError, naming the holder, where another process has it. `job`: this batch job, if any."""
        mine = _this_process(job)
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            try:
                is_alone = _lock(descriptor)
                # Deleted by its holder, who ended this moment: another file is, or will be, the lock.
                if is_alone and not _is_at(descriptor, self._path):
                    os.close(descriptor)
                    continue
                self._check_free(descriptor, is_alone, mine)
                content = json.dumps(mine).encode()
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, content, 0)
                os.fsync(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            self._descriptor = descriptor
            return

    def give_back(self) -> None:
        """Deletes the file, then lets go of it; nothing if it is not held."""
        if self._descriptor is None:
            return
        if _is_at(self._descriptor, self._path):  # else somebody has deleted ours, and it is another's by now
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = None

    def check_free(self, job: str | None) -> None:
        """Whether `take` would get it; changes nothing. Raises UsageError as it does."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return
        try:
            self._check_free(descriptor, _lock(descriptor), _this_process(job))
        finally:
            os.close(descriptor)

    def _check_free(self, descriptor: int, is_alone: bool, mine: Mapping[str, Any]) -> None:
        text = os.pread(descriptor, _MAX_BYTES, 0)
        holder = _parsed(text)
        if not is_alone or (text and not _is_stale(holder, mine)):
            raise self._in_use(holder)

    def _in_use(self, holder: Mapping[str, Any]) -> UsageError:
        who = (
            f"process {holder['pid']} on {holder['host']}"
            if holder.keys() >= {"pid", "host"}
            else "another process"
        )
        return UsageError(
            f"--output {self._path.parent} is in use by {who}: wait for it, choose another folder, or delete "
            f"{self._path} if that run is gone."
        )


def _this_process(job: str | None) -> dict[str, Any]:
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "began": process_began(pid), "job": job}


def process_began(pid: int) -> str | None:
    """When a process of this machine began: the boot, and clock ticks since then; None where it is gone.

    The kernel numbers processes anew; number and beginning together are one process for ever.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        # The name of the command, in brackets, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        state, began = fields[0], fields[19]
    except (OSError, IndexError):
        return None
    return None if state in (b"Z", b"X") else f"{boot} {began.decode()}"


def _lock(descriptor: int) -> bool:
    """Whether the kernel's lock is ours, or the file system has none. Children do not inherit it."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_stale(holder: Mapping[str, Any], mine: Mapping[str, Any]) -> bool:
    if holder.get("host") != mine["host"]:
        return mine["job"] is not None and holder.get("job") == mine["job"]
    pid = holder.get("pid")
    if not isinstance(pid, int) or isinstance(pid, bool):
        return False
    began = process_began(pid)
    # Before the beginning was written down, the number alone told who it was; and it may be our own, used again.
    said = holder.get("began", None if pid == mine["pid"] else began)
    return began is None or began != said
