"""The clock that every training loop is timed by."""

import time

import pytest

from tests.benchmarks import step_clock
from tests.benchmarks.step_clock import StepClock, Steps, Timing, trial_of

TICKS = "perf_counter"


@pytest.fixture
def clock_of(monkeypatch: pytest.MonkeyPatch) -> "Clocks":
    return Clocks(monkeypatch)


class Clocks:
    """A clock on one rank whose steps take the seconds that are asked for; the others' wishes are `others`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.others = 0.0, list[int]()
        monkeypatch.setattr(time, TICKS, lambda: self.now)
        monkeypatch.setattr(step_clock.comm, "all_gather_objects", lambda own: [own, *self.others])

    def run(self, timing: Timing, seconds: list[float]) -> tuple[Steps | None, int]:
        """What it shows, and how many steps it wanted; step number n has n tokens."""
        clock = StepClock(timing)
        clock.begin()
        for number, each in enumerate(seconds, 1):
            self.now += each
            if clock.step(number):
                return clock.steps, number
        return clock.steps, len(seconds)


def test_warm_steps_are_not_counted_and_the_last_one_says_how_many_follow(clock_of: Clocks) -> None:
    steps, number = clock_of.run(Timing(2, seconds=6.0, min_steps=1), [50.0, 2.0, *[3.0] * 20])
    assert number == 2 + 3  # six seconds are three steps like the second one
    assert steps is not None
    assert (steps.seconds, steps.tokens, steps.each) == (9.0, 3 + 4 + 5, (3.0, 3.0, 3.0))


def test_there_are_as_many_as_the_slowest_wish_of_a_rank_and_the_least_that_is_asked(
    clock_of: Clocks,
) -> None:
    assert clock_of.run(Timing(1, seconds=1.0, min_steps=4), [1.0] * 20)[1] == 1 + 4
    clock_of.others = [7]
    assert clock_of.run(Timing(1, seconds=1.0, min_steps=4), [1.0] * 20)[1] == 1 + 7


def test_a_loop_that_ends_too_early_has_no_rate() -> None:
    clock = StepClock(Timing())
    clock.begin()
    with pytest.raises(RuntimeError, match="after 0 steps"):
        clock.reading()


def test_ranks_add_up_their_tokens_and_the_slowest_is_the_time() -> None:
    ranks = [Steps(30, 2.0, 1.0, (1.0, 1.0), 0), Steps(50, 2.5, 1.5, (1.0, 1.5), 0)]
    trial = trial_of(ranks)
    assert (trial.amount, trial.seconds, trial.cpu_seconds, trial.rate) == (80, 2.5, 2.5, 32.0)
    assert trial.details == {"steps": 2, "tokens_per_step": 40.0, "seconds_per_step": 1.0}
