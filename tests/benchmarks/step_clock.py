"""How fast a training loop goes, in its own process, between its warm-up and its end.

A loop tells its clock of every step. The first steps allocate, compile and read, and are not counted; after them all
ranks agree on how many more are, by how long the last one took.
"""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from pretrain import comm
from tests.benchmarks.measure import Trial


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
    flops: float = 0.0  # of the whole world, where the loop counts them


class StepClock:
    """`begin`, then `step` with each step's real tokens of this rank until it says that it is enough."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._stamps: list[float] = []
        self._tokens: list[int] = []
        self._flops: list[float] = []
        self._cpu_began = 0.0
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
            self._stamps[-1], self._cpu_began = time.perf_counter(), time.process_time()
        if number < self._last:
            return False
        counted = self._stamps[warm:]
        self.steps = Steps(
            tokens=sum(self._tokens[warm:]),
            seconds=counted[-1] - counted[0],
            cpu_seconds=time.process_time() - self._cpu_began,
            each=tuple(end - start for start, end in pairwise(counted)),
            peak_bytes=torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
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
    details = {
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
        seconds=max(rank.seconds for rank in ranks),
        cpu_seconds=sum(rank.cpu_seconds for rank in ranks),
        details=details,
    )


def _synchronise() -> None:
    """Kernels that are still to run belong to the steps that asked for them."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
