"""How fast a training loop goes, in its own process, between its warm-up and its end.

A loop tells its clock of every step. The first steps allocate, compile and read, and are not counted; after them all
ranks agree on how many more are, by how long the last one took.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import psutil
import torch

from pretrain import comm
from tests.benchmarks.measure import Trial

DISTURBED_SHARE = 0.04  # of the cores, that others may have


@dataclass(frozen=True)
class Timing:
    """Steps that are not counted, and then so many seconds, or steps at least; whole cycles of `cycle` steps, where
    steps differ, as of long samples and short ones, or with something that is done every few of them."""

    warm_steps: int = 2
    seconds: float = 15.0
    min_steps: int = 3
    cycle: int = 1


@dataclass(frozen=True)
class Work:
    """Of one rank in a step: `tokens` are real ones, `computed` the places of its rows, padding included (0: not
    counted), `waited` the seconds for its data, `flops` those of the whole world."""

    tokens: int
    computed: int = 0
    waited: float = 0.0
    flops: float = 0.0


@dataclass(frozen=True)
class Steps:
    """What one rank has done: real tokens in the counted steps, seconds and CPU seconds of all of them, the seconds of
    each as the host saw it, and the most bytes that were allocated on its GPU; the rest as in `Work`."""

    tokens: int
    seconds: float
    cpu_seconds: float
    each: tuple[float, ...]
    peak_bytes: int
    busy_seconds: float = 0.0  # CPU seconds of the whole machine meanwhile
    flops: float = 0.0
    computed: int = 0
    waited: float = 0.0


class StepClock:
    """`begin`, then `step` with the work of each until it says that it is enough."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._stamps: list[float] = []
        self._done: list[Work] = []
        self._cpu_began = self._busy_began = 0.0
        self._last = math.inf
        self.steps: Steps | None = None

    def begin(self) -> None:
        self._stamps.append(time.perf_counter())

    @property
    def has_begun(self) -> bool:
        return bool(self._stamps)

    def step(self, work: Work) -> bool:
        """Whether this step was the last; the same on all ranks."""
        timing, number = self._timing, len(self._stamps)
        warm = timing.warm_steps
        if number in (warm, self._last):
            _synchronise()
        self._stamps.append(time.perf_counter())
        self._done.append(work)
        if number == warm:
            own = math.ceil(timing.seconds / (self._stamps[-1] - self._stamps[-2]))
            wanted = max(timing.min_steps, *comm.all_gather_objects(own))
            self._last = warm + math.ceil(wanted / timing.cycle) * timing.cycle
            self._stamps[-1] = time.perf_counter()
            self._cpu_began, self._busy_began = own_cpu_seconds(), busy_cpu_seconds()
        if number < self._last:
            return False
        counted, done = self._stamps[warm:], self._done[warm:]
        self.steps = Steps(
            tokens=sum(work.tokens for work in done),
            seconds=counted[-1] - counted[0],
            cpu_seconds=own_cpu_seconds() - self._cpu_began,
            each=tuple(end - start for start, end in pairwise(counted)),
            peak_bytes=torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
            busy_seconds=busy_cpu_seconds() - self._busy_began,
            flops=sum(work.flops for work in done),
            computed=sum(work.computed for work in done),
            waited=sum(work.waited for work in done),
        )
        return True

    def reading(self) -> Steps:
        """What the clock shows; raises RuntimeError where the loop ended before it was enough."""
        if self.steps is None:
            raise RuntimeError(f"The loop ended after {len(self._done)} steps: give it more to train on.")
        return self.steps


def trial_of(ranks: Sequence[Steps]) -> Trial:
    """Of all ranks together. `real_share`: of the places that were computed, those that are no padding;
    `data_wait_per_step`: seconds, mean over ranks; both where a loop tells of them."""
    steps, tokens = len(ranks[0].each), sum(rank.tokens for rank in ranks)
    seconds, own = max(rank.seconds for rank in ranks), sum(rank.cpu_seconds for rank in ranks)
    details = {
        "others_share": max(0.0, ranks[0].busy_seconds - own) / seconds / len(os.sched_getaffinity(0)),
        "steps": steps,
        "tokens_per_step": tokens / steps,
        "seconds_per_step": seconds / steps,  # a median would drop what is done every few steps
    }
    if waited := sum(rank.waited for rank in ranks):
        details["data_wait_per_step"] = waited / len(ranks) / steps
    if computed := sum(rank.computed for rank in ranks):
        details["real_share"] = tokens / computed
    if peak := max(rank.peak_bytes for rank in ranks):
        details["peak_bytes"] = peak
    if ranks[0].flops:
        details["flops_per_second"] = ranks[0].flops / ranks[0].seconds
    return Trial(
        amount=tokens,
        seconds=seconds,
        cpu_seconds=own,
        details=details,
    )


def undisturbed(run: Callable[[int], Trial], most: int, say: Callable[[str], None]) -> Callable[[int], Trial]:
    """`run`, again where others had more than a little of the cores meanwhile; the least disturbed of `most`.

    The details say what others had in the runs that were `discarded`.
    """

    def repeated(number: int) -> Trial:
        trials: list[Trial] = []
        while len(trials) < most:
            trials.append(run(number))
            if (share := trials[-1].details["others_share"]) <= DISTURBED_SHARE:
                break
            say(f"others had {share:.0%} of the cores")
        kept = min(trials, key=lambda trial: trial.details["others_share"])
        discarded = [trial.details["others_share"] for trial in trials if trial is not kept]
        return replace(kept, details={**kept.details, "discarded": discarded})

    return repeated


def own_cpu_seconds() -> float:
    """Of this process and those that it has started, as workers that load data."""
    ended = psutil.Process().cpu_times()
    children = psutil.Process().children(recursive=True)
    living = [spent for spent in map(_cpu_seconds, children) if spent is not None]
    return time.process_time() + ended.children_user + ended.children_system + sum(living)


def _cpu_seconds(process: psutil.Process) -> float | None:
    """None where it has just ended."""
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return None
    return float(times.user + times.system)


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
