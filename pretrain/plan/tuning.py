"""Which micro-batch a run should have, by trying: `python -m pretrain plan --tune`.

For each way of activation checkpointing:
1. micro-batches of 1, 2, 4, ... rows are measured, until one does not fit, the rate falls, twice measured, or does not
   grow, a pass would take too long, or a rank has no more rows in a step;
2. about the best of them, those that divide the batch and lie between;
3. of all that fit and divide the batch the fastest is recommended; within `_EQUAL` of it the one with the most rows.

`search` knows no device: a `Measurer` says what a candidate takes, or that the device has too little memory.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Protocol

from pretrain.plan.fitting import Checkpointing

_FALLEN = 0.9  # of the best rate: fallen clearly
_GAIN = 1.02  # that two doublings must bring together
_EQUAL = 0.98  # of the fastest rate: as fast, for all that is known
LONGEST_PASS = 4.0  # in units of the seconds for which a candidate is timed


class TooLarge(Exception):
    """The candidate cannot be measured; the message says what it would take, or that there is too little."""


@dataclass(frozen=True)
class Trial:
    """A candidate as it was measured. `tokens`: real ones of its micro-batch; `seconds`: of forward and backward;
    `peak_bytes`: of a rank of the run, with what the plan says of all but activations."""

    checkpointing: Checkpointing
    rows: int
    tokens: int
    seconds: float
    activation_bytes: int
    peak_bytes: int
    fits: bool | None
    divides: bool = True

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


@dataclass(frozen=True)
class NotTried:
    """From so many rows on, and why."""

    checkpointing: Checkpointing
    rows: int
    reason: str


@dataclass(frozen=True)
class Search:
    """All that was measured and what was not; `best`: the recommended one, None where nothing fits. `was_stopped`: by
    SIGINT, and the rest is not known."""

    trials: tuple[Trial, ...]
    not_tried: tuple[NotTried, ...]
    best: Trial | None
    was_stopped: bool = False


class Measurer(Protocol):
    """What can be known of a candidate."""

    def measure(self, checkpointing: Checkpointing, rows: int) -> Trial:
        """Raises TooLarge where it would not fit, or did not."""
        ...


@dataclass(frozen=True)
class Limits:
    """`common_rows`: of a rank, of every size of the global batch a divisor; the largest micro-batch. `seconds`: of one
    pass."""

    common_rows: int
    seconds: float


def search(
    measurer: Measurer,
    ways: tuple[Checkpointing, ...],
    limits: Limits,
    say: Callable[[Trial | NotTried], None] = lambda _: None,
) -> Search:
    """Each way for itself; `say` hears of everything as it comes. SIGINT ends it with what there is by then."""
    trials: list[Trial] = []
    not_tried: list[NotTried] = []
    was_stopped = False
    try:
        for found in chain.from_iterable(_of_way(measurer, each, limits) for each in ways):
            say(found)
            if isinstance(found, Trial):
                trials.append(found)
            else:
                not_tried.append(found)
    except KeyboardInterrupt:
        was_stopped = True
    return Search(tuple(trials), tuple(not_tried), _recommended(trials), was_stopped)


def _of_way(measurer: Measurer, checkpointing: Checkpointing, limits: Limits) -> Iterator[Trial | NotTried]:
    trials: list[Trial] = []
    rows, stopped = 1, None
    while stopped is None:
        stopped = _why_not(trials, rows, limits)
        if stopped is None:
            found = _tried(measurer, checkpointing, rows, limits)
            if isinstance(found, Trial) and _has_fallen([*trials, found]):
                again = _tried(measurer, checkpointing, rows, limits)  # it may have been other work here
                if isinstance(again, Trial):
                    found = min(found, again, key=lambda each: each.seconds)
            if isinstance(found, Trial):
                yield found
                trials.append(found)
                rows *= 2
            else:
                stopped = found.reason
    yield NotTried(checkpointing, rows, stopped)
    fitting = [each for each in trials if each.fits is not False]
    if fitting:
        best = max(fitting, key=lambda each: each.tokens_per_second)
        for between in _between(best.rows, limits.common_rows):
            if between < rows:  # what is too large stays so
                yield _tried(measurer, checkpointing, between, limits)


def _tried(measurer: Measurer, checkpointing: Checkpointing, rows: int, limits: Limits) -> Trial | NotTried:
    try:
        trial = measurer.measure(checkpointing, rows)
    except TooLarge as error:
        return NotTried(checkpointing, rows, str(error))
    return replace(trial, divides=limits.common_rows % rows == 0)


def _why_not(trials: list[Trial], rows: int, limits: Limits) -> str | None:
    """Why so many rows are not tried after these trials; None: they are."""
    if rows > limits.common_rows:
        return f"a micro-batch that divides every step has {limits.common_rows} rows at most"
    if not trials:
        return None
    last, rates = trials[-1], [each.tokens_per_second for each in trials]
    if last.fits is False:
        return "fewer do not fit"
    if _has_fallen(trials):
        return "the rate has fallen"
    if len(rates) > 2 and max(rates[-2:]) < _GAIN * max(rates[:-2]):
        return "the rate no longer grows"
    seconds = last.seconds * rows / last.rows
    if seconds > limits.seconds:
        return (
            f"a pass would take about {seconds:.2g} s, and at most {limits.seconds:g} s are given (--seconds)"
        )
    return None


def _has_fallen(trials: list[Trial]) -> bool:
    """Whether the last is clearly slower than the best."""
    return trials[-1].tokens_per_second < _FALLEN * max(each.tokens_per_second for each in trials)


def _between(best: int, common_rows: int) -> list[int]:
    """Of the divisors within half and twice of `best` one below and one above: those nearest to 3/4 and 3/2 of it."""
    found = []
    for low, high in ((best // 2 + 1, best), (best + 1, 2 * best)):
        divisors = [rows for rows in range(low, high) if common_rows % rows == 0]
        if divisors:
            middle = 1.5 * (best / 2 if high == best else best)
            found.append(min(divisors, key=lambda rows: abs(rows - middle)))
    return found


def _recommended(trials: list[Trial]) -> Trial | None:
    usable = [each for each in trials if each.divides and each.fits is not False]
    if not usable:
        return None
    fastest = max(each.tokens_per_second for each in usable)
    near = [each for each in usable if each.tokens_per_second >= _EQUAL * fastest]
    return max(near, key=lambda each: (each.rows, each.tokens_per_second))
