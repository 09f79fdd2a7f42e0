"""Peak memory of a command and of every process that it starts, as Linux counts it."""

import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.benchmarks.text_peers import last_words
from tests.worlds import ROOT, environment

_SECONDS_BETWEEN_SAMPLES = 0.02
_BYTES_PER_KIB = 1024
_SPAWNED = "--multiprocessing-fork"  # how Python's multiprocessing starts a worker


@dataclass(frozen=True)
class Peak:
    """`resident_bytes`: the most that was ever resident (VmHWM), files that others share included;
    `anonymous_bytes`: the most that was seen of the process's own memory."""

    role: str
    resident_bytes: int
    anonymous_bytes: int


@dataclass(frozen=True)
class Watched:
    """A command's wall seconds, the peaks of its processes (itself first), and of the sum of their own memory."""

    seconds: float
    peaks: tuple[Peak, ...]
    anonymous_bytes: int


def watch(command: Sequence[str]) -> Watched:
    """Runs a command to its end, looking at its processes all the while; raises RuntimeError if it fails.

    VmHWM belongs to the program in memory, so unlike `ru_maxrss` it begins anew when a child becomes the program
    that it is to run. It never falls, so the last look at a process is its peak.
    """
    began = time.perf_counter()
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        seen: dict[int, Peak] = {}
        most_anonymous = 0
        while process.poll() is None:
            now = {pid: _look(pid, process.pid) for pid in _tree(process.pid)}
            alive = {pid: look for pid, look in now.items() if look is not None}
            most_anonymous = max(most_anonymous, sum(look.anonymous_bytes for look in alive.values()))
            for pid, look in alive.items():
                before = seen.get(pid, look).anonymous_bytes
                seen[pid] = Peak(look.role, look.resident_bytes, max(before, look.anonymous_bytes))
            time.sleep(_SECONDS_BETWEEN_SAMPLES)
        errors = process.stderr.read() if process.stderr is not None else ""
    if process.returncode != 0:
        raise RuntimeError(last_words(errors))
    return Watched(time.perf_counter() - began, tuple(seen.values()), most_anonymous)


def status_bytes(pid: int | str) -> dict[str, int]:
    """The sizes in /proc/PID/status by name, in bytes; none for a process that has ended."""
    found = {}
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if value.endswith(" kB"):
                found[name] = int(value[: -len(" kB")]) * _BYTES_PER_KIB
    return found


def _tree(pid: int) -> list[int]:
    """The process and all its descendants."""
    with suppress(psutil.NoSuchProcess):
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    return []


def _look(pid: int, main_pid: int) -> Peak | None:
    """None where the process has ended."""
    sizes = status_bytes(pid)
    if "VmHWM" not in sizes:
        return None
    role = "main"
    if pid != main_pid:
        with suppress(psutil.NoSuchProcess):
            role = "worker" if _SPAWNED in psutil.Process(pid).cmdline() else "other"
    return Peak(role, sizes["VmHWM"], sizes["RssAnon"])
