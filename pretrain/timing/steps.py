"""The clock of a rank's steps, and every so many steps the figures of all ranks.

1. a step begins; `next` of the loader is timed, and then the rank's own seconds until all have what they need;
2. the loop says when the step has ended; its seconds are those of every rank, its own seconds and waits add up;
3. when it is due, one all-gather of four doubles shows every rank the others' means over the interval.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isnan, nan
from time import perf_counter
from typing import TypeVar

import torch

from pretrain import comm
from pretrain.metrics import RanksRecord
from pretrain.timing.busy import ThreadClock, own_by_probes, probe_of
from pretrain.timing.memory import memory_of
from pretrain.timing.straggler import Stragglers

T = TypeVar("T")


@dataclass
class _Sums:
    """Over the steps since the last interval. `own`: None where it is not known of one of them."""

    steps: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    own: float | None = 0.0


class Timing:
    """Of this rank; made by the thread that trains. `every`: steps of an interval, 0: none; `hosts`: of each rank."""

    def __init__(
        self, every: int = 0, hosts: Sequence[str] = ("",), device: torch.device | None = None
    ) -> None:
        self._every, self._device = every, device or torch.device("cpu")
        self._thread, self._probe = ThreadClock(), probe_of(self._device)
        self._runs_on_cpu = self._device.type == "cpu"
        self._began = self._got_data = 0.0
        self._busy: float | None = None
        self._sums = _Sums()
        self.data_wait = 0.0  # seconds, of the step in progress
        self.stragglers = Stragglers(hosts)

    def next_of(self, loader: Iterator[T]) -> T:
        """A step begins with the wait for its batches."""
        self._began = perf_counter()
        batches = next(loader)
        self._got_data = perf_counter()
        self.data_wait = self._got_data - self._began
        self._busy = self._thread.now() if self._runs_on_cpu else None
        return batches

    def step_ended(self) -> float:
        """Its seconds."""
        seconds, sums = perf_counter() - self._began, self._sums
        busy = self._thread.now() if self._runs_on_cpu else None
        own = None if busy is None or self._busy is None else busy - self._busy + self.data_wait
        sums.own = None if sums.own is None or own is None else sums.own + own
        sums.steps, sums.seconds = sums.steps + 1, sums.seconds + seconds
        sums.waited += self.data_wait
        return seconds

    def is_due(self, step: int, last: bool) -> bool:
        """By what all ranks know alike."""
        return self._every > 0 and (last or step % self._every == 0)

    def of_ranks(self, step: int) -> RanksRecord:
        """All ranks since the last interval; collective, and every rank gets the same but for its own memory."""
        sums, self._sums = self._sums, _Sums()
        memory = memory_of(self._device)
        probe = self._probe.seconds()
        row = [nan if sums.own is None else sums.own / sums.steps, sums.waited / sums.steps]
        table = comm.all_gather_numbers(
            [*row, float(memory.peak), nan if probe is None else probe], self._device
        )
        own, waits, peaks, probes = ([_known(each) for each in column] for column in zip(*table, strict=True))
        waited = [each or 0.0 for each in waits]
        seconds = sums.seconds / sums.steps
        return RanksRecord(
            step=step,
            steps=sums.steps,
            seconds=seconds,
            own_seconds=own if self._runs_on_cpu else own_by_probes(seconds, waited, probes),
            data_wait_seconds=waited,
            peak_bytes=[int(each or 0) for each in peaks],
            memory=memory.figures,
        )


def _known(number: float) -> float | None:
    return None if isnan(number) else number
