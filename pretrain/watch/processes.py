"""Processes of this machine, by `/proc`: alive, stopped or gone, and never mistaken for a later one of the same id."""

import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

# Those that start ranks, end with them, and pass signals on: by the name of the program or of its module.
_LAUNCHERS = frozenset(
    {"torchrun", "torch.distributed.run", "torch.distributed.launch", "deepspeed.launcher.launch", "node.sh"}
)
# The process that a user sees and signals; it starts the one above and hands no signal on.
_RUNNER_ABOVE = "deepspeed.launcher.launch"
_NAMED_BY = 6  # first words of a command line


class ProcessId(NamedTuple):
    """`started`: clock ticks after the machine's start, which tells a process from a later one of the same number."""

    pid: int
    started: int

    @property
    def state(self) -> str:
        """The letter of proc(5): T stopped, Z dead and not yet waited for; "gone" where it is no more."""
        found = _stat(self.pid)
        return "gone" if found is None or found.started != self.started else found.state

    @property
    def is_dead(self) -> bool:
        return self.state in ("gone", "Z", "X", "x")

    def kill(self) -> None:
        """Ends it at once, stopped or not."""
        if not self.is_dead:
            with suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)


class _Stat(NamedTuple):
    state: str
    parent: int
    started: int


def process(pid: int) -> ProcessId | None:
    """None where there is none."""
    found = _stat(pid)
    return None if found is None else ProcessId(pid, found.started)


def machine() -> str:
    """Processes of the same machine can look at each other: same host, and the same name space of process ids."""
    return f"{socket.gethostname()}/{os.stat('/proc/self/ns/pid').st_ino}"


def launchers() -> list[ProcessId]:
    """The processes whose end should end this one: its parent if that is a launcher, and deepspeed's command above."""
    found = []
    pid = os.getppid()
    words = _command(pid)
    if _LAUNCHERS & set(words):
        found.append(process(pid))
        parent = _stat(pid)
        if _RUNNER_ABOVE in words and parent is not None and "deepspeed" in _command(parent.parent):
            found.append(process(parent.parent))
    return [each for each in found if each is not None]


def innermost_frame(thread: int) -> tuple[str, bool]:
    """Where a thread of this process is ("loader.py:96"), and whether that is an exchange with other ranks."""
    frame = sys._current_frames().get(thread)
    if frame is None:
        return "ended", False
    path = frame.f_code.co_filename
    exchanging = "/torch/distributed/" in path or "/deepspeed/comm/" in path
    return f"{Path(path).name}:{frame.f_lineno}", exchanging


def _stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name, in brackets, may hold anything.
    fields = text.rpartition(")")[2].split()
    return _Stat(fields[0], int(fields[1]), int(fields[19]))


def _command(pid: int) -> list[str]:
    """The last parts of the first words of a command line."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:_NAMED_BY]
    except OSError:
        return []
    return [word.decode(errors="replace").rpartition("/")[2] for word in words]
