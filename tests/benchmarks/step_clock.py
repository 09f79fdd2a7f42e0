"""How fast a training loop goes, in its own process, between its warm-up and its end.

A loop tells its clock of every step. The first steps allocate, compile and read, and are not counted; after them all
ranks agree on how many more are, by how long the last one took.
"""

import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import psutil
import torch

from pretrain import comm
from tests.benchmarks.measure import Trial

DISTURBED_SHARE = 0.04  # of the cores, that others may have


@dataclass(frozen=True)
class Timing:
    """Steps that are not counted, and then so many seconds, or steps at least."""

    warm_steps: int = 2
    seconds: float = 15.0
    min_steps: int = 3


@dataclass(frozen=True)
class Steps:
    """What one rank has done: real tokens in the counted steps, seconds and CPU seconds of all of them, the seconds of
    each as the host saw it, and the most bytes that were allocated on its GPU."""

    tokens: int
    seconds: float
    cpu_seconds: float
    each: tuple[float, ...]
    peak_bytes: int
    busy_seconds: float = 0.0  # CPU seconds of the whole machine meanwhile
    flops: float = 0.0  # of the whole world, where the loop counts them


class StepClock:
    """`begin`, then `step` with each step's real tokens of this rank until it says that it is enough."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._stamps: list[float] = []
        self._tokens: list[int] = []
        self._flops: list[float] = []
        self._cpu_began = self._busy_began = 0.0
        self._last = math.inf
        self.steps: Steps | None = None

    def begin(self) -> None:
        self._stamps.append(time.perf_counter())

    @property
    def has_begun(self) -> bool:
        return bool(self._stamps)

    def step(self, tokens: int, flops: float = 0.0) -> bool:
        """Whether this step was the last; the same on all ranks."""
        warm, number = self._timing.warm_steps, len(self._stamps)
        if number in (warm, self._last):
            _synchronise()
        self._stamps.append(time.perf_counter())
        self._tokens.append(tokens)
        self._flops.append(flops)
        if number == warm:
            own = math.ceil(self._timing.seconds / (self._stamps[-1] - self._stamps[-2]))
            self._last = warm + max(self._timing.min_steps, *comm.all_gather_objects(own))
            self._stamps[-1] = time.perf_counter()
            self._cpu_began, self._busy_began = time.process_time(), busy_cpu_seconds()
        if number < self._last:
            return False
        counted = self._stamps[warm:]
        self.steps = Steps(
            tokens=sum(self._tokens[warm:]),
            seconds=counted[-1] - counted[0],
            cpu_seconds=time.process_time() - self._cpu_began,
            each=tuple(end - start for start, end in pairwise(counted)),
            peak_bytes=torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
            busy_seconds=busy_cpu_seconds() - self._busy_began,
            flops=sum(self._flops[warm:]),
        )
        return True

    def reading(self) -> Steps:
        """What the clock shows; raises RuntimeError where the loop ended before it was enough."""
        if self.steps is None:
            raise RuntimeError(f"The loop ended after {len(self._tokens)} steps: give it more to train on.")
        return self.steps


def trial_of(ranks: Sequence[Steps]) -> Trial:
    """Of all ranks together."""
    each = ranks[0].each
    seconds, own = max(rank.seconds for rank in ranks), sum(rank.cpu_seconds for rank in ranks)
    details = {
        "others_share": max(0.0, ranks[0].busy_seconds - own) / seconds / len(os.sched_getaffinity(0)),
        "steps": len(each),
        "tokens_per_step": sum(rank.tokens for rank in ranks) / len(each),
        "seconds_per_step": statistics.median(each),
    }
    if peak := max(rank.peak_bytes for rank in ranks):
        details["peak_bytes"] = peak
    if ranks[0].flops:
        details["flops_per_second"] = ranks[0].flops / ranks[0].seconds
    return Trial(
        amount=sum(rank.tokens for rank in ranks),
        seconds=seconds,
        cpu_seconds=own,
        details=details,
    )


def undisturbed(run: Callable[[int], Trial], most: int, say: Callable[[str], None]) -> Callable[[int], Trial]:
    """`run`, again where others had more than a little of the cores meanwhile; the least disturbed of `most`."""

    def repeated(number: int) -> Trial:
        trials: list[Trial] = []
        while len(trials) < most:
            trials.append(run(number))
            if (share := trials[-1].details["others_share"]) <= DISTURBED_SHARE:
                break
            say(f"others had {share:.0%} of the cores")
        return min(trials, key=lambda trial: trial.details["others_share"])

    return repeated


def busy_cpu_seconds() -> float:
    """Of all processes since the machine started."""
    times = psutil.cpu_times()
    idle: float = times.idle + getattr(times, "iowait", 0.0)
    # Linux counts what guests take as user time already.
    return float(sum(times)) - idle - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)


def _synchronise() -> None:
    """Kernels that are still to run belong to the steps that asked for them."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
