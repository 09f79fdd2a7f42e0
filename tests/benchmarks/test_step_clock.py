"""The clock that every training loop is timed by."""

import os
import subprocess
import sys
import time

import pytest

from tests.benchmarks import step_clock
from tests.benchmarks.measure import Trial
from tests.benchmarks.step_clock import StepClock, Steps, Timing, Work, trial_of, undisturbed

TICKS = "perf_counter"
WORKER = """
import time
while time.process_time() < 0.3:
    pass
print(flush=True)
time.sleep(0.2)
"""


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
            if clock.step(Work(number)):
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


def test_counted_steps_are_whole_cycles(clock_of: Clocks) -> None:
    assert clock_of.run(Timing(1, seconds=1.0, min_steps=1, cycle=5), [1.0] * 20)[1] == 1 + 5
    clock_of.others = [7]
    assert clock_of.run(Timing(1, seconds=1.0, min_steps=1, cycle=5), [1.0] * 20)[1] == 1 + 10


def test_a_loop_that_ends_too_early_has_no_rate() -> None:
    clock = StepClock(Timing())
    clock.begin()
    with pytest.raises(RuntimeError, match="after 0 steps"):
        clock.reading()


def test_ranks_add_up_their_tokens_and_the_slowest_is_the_time() -> None:
    ranks = [
        Steps(30, 2.0, 1.0, (0.5, 1.5), 0, 4.0, computed=40, waited=0.2),
        Steps(50, 2.5, 1.5, (1.0, 1.5), 0, 4.0, computed=60, waited=0.6),
    ]
    trial = trial_of(ranks)
    assert (trial.amount, trial.seconds, trial.cpu_seconds, trial.rate) == (80, 2.5, 2.5, 32.0)
    assert trial.details == {
        "others_share": 1.5
        / 2.5
        / len(os.sched_getaffinity(0)),  # four busy seconds, of which 2.5 are their own
        "steps": 2,
        "tokens_per_step": 40.0,
        "seconds_per_step": 1.25,
        "data_wait_per_step": 0.2,
        "real_share": 0.8,
    }
    untold = trial_of([Steps(30, 2.0, 1.0, (1.0, 1.0), 0)]).details
    assert "real_share" not in untold and "data_wait_per_step" not in untold


def test_a_disturbed_run_is_repeated_until_one_is_not() -> None:
    shares, said = [0.5, 0.2, 0.01, 0.0], list[str]()

    def run(number: int) -> Trial:
        share = shares.pop(0)
        return Trial(number, 1.0, details={"others_share": share})

    assert undisturbed(run, 4, said.append)(7).details == {"others_share": 0.01, "discarded": [0.5, 0.2]}
    assert said == ["others had 50% of the cores", "others had 20% of the cores"]
    shares[:] = [0.5, 0.3, 0.4, 0.6, 0.0]
    best_of_four = {"others_share": 0.3, "discarded": [0.5, 0.4, 0.6]}
    assert undisturbed(run, 4, said.append)(7).details == best_of_four


def test_work_of_this_process_is_busy_time() -> None:
    began, own = step_clock.busy_cpu_seconds(), time.process_time()
    while time.process_time() - own < 0.3:
        pass
    assert step_clock.busy_cpu_seconds() - began > 0.2


def test_work_of_a_worker_is_its_own_and_not_others() -> None:
    own = step_clock.own_cpu_seconds()
    with subprocess.Popen([sys.executable, "-c", WORKER], stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        while_living = step_clock.own_cpu_seconds() - own
    assert while_living > 0.2
    assert step_clock.own_cpu_seconds() - own >= while_living - 0.02  # clock ticks
