"""What a rank's own part of a step is, which the step's seconds do not tell: all ranks leave a step together.

On the CPU: the seconds that the main thread ran or waited for a processor, as Linux counts them. What waits for other
ranks sleeps in gloo, and is not among them; nor is what waits for a disk. On CUDA the kernels of NCCL keep the stream
busy while they wait, so a small fixed piece of work is timed instead, once an interval.
"""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from statistics import median_low
from typing import Any, Protocol

import torch

_SCHEDSTAT = Path(
    "/proc/thread-self/schedstat"
)  # proc(5): nanoseconds run, nanoseconds waiting to run, time slices
_MAX_BYTES = 100
_PROBES = 5  # one after the other; the median is kept
_PROBE_SIZE = 4096  # of the square matrices, bf16: some tenths of a millisecond on a data-centre GPU


class ThreadClock:
    """Seconds that the thread which made it was busy; None where this kernel does not count run-queue waits."""

    def __init__(self, path: Path = _SCHEDSTAT) -> None:
        # Opened once: `thread-self` is the thread that opens it.
        self._file: FileIO | None = None
        with suppress(OSError):
            self._file = FileIO(path)

    def now(self) -> float | None:
        """By the clock of this thread's processor time, exact to the microsecond, and the kernel's run-queue waits."""
        if self._file is None:
            return None
        fields = os.pread(self._file.fileno(), _MAX_BYTES, 0).split()
        if len(fields) != 3 or fields[2] == b"0":  # a running thread has had a time slice: nothing is counted
            return None
        return (time.thread_time_ns() + int(fields[1])) / 1e9


class Probe(Protocol):
    """A fixed piece of work on the device."""

    def seconds(self) -> float | None:
        """Of the one that was begun at the call before; begins the next. None where there is none."""
        ...


class NoProbe:
    """On the CPU, where the thread's own clock says more."""

    def seconds(self) -> float | None:
        return None


class CudaProbe:
    """Products of two fixed matrices between two events of the stream. Nothing waits for the device: what was begun at
    one call is read at the next, an interval later. (No GPU has run this.)"""

    def __init__(self, device: torch.device) -> None:
        # Zeros: what is multiplied does not change the time much, and no random number is drawn.
        self._matrix = torch.zeros(_PROBE_SIZE, _PROBE_SIZE, dtype=torch.bfloat16, device=device)
        self._product = torch.empty_like(self._matrix)
        self._events: list[tuple[Any, Any]] = []

    def seconds(self) -> float | None:
        begun, self._events = self._events, [self._enqueue() for _ in range(_PROBES)]
        if not begun or not all(end.query() for _, end in begun):
            return None
        return median_low([start.elapsed_time(end) / 1e3 for start, end in begun])

    def _enqueue(self) -> tuple[Any, Any]:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        torch.mm(self._matrix, self._matrix, out=self._product)
        end.record()
        return start, end


def probe_of(device: torch.device) -> Probe:
    """What fits the device."""
    return CudaProbe(device) if device.type == "cuda" else NoProbe()


def own_by_probes(
    seconds: float, waits: Sequence[float], probes: Sequence[float | None]
) -> list[float | None]:
    """Own seconds of each rank in a step of `seconds`, from its data wait and its probe.

    Without the longest data wait a step takes as long as the slowest rank needs; a rank with half its probe needs half
    of that.
    """
    known = [probe for probe in probes if probe is not None]
    if len(known) < len(probes) or not max(known, default=0.0) > 0:
        return [None] * len(probes)
    slowest = max(0.0, seconds - max(waits))
    return [slowest * probe / max(known) + wait for probe, wait in zip(known, waits, strict=True)]
