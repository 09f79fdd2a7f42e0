"""CPU seconds by stage: each counted once."""

import time

import pytest

from data_prep.clock import CpuClock


class Ticks:
    """A thread's time that goes on when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_is_timed_within_counts_there_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = Ticks()
    monkeypatch.setattr(time, "thread_time", ticks)
    clock = CpuClock()
    with clock.timed("outer"):
        ticks.now += 1
        for seconds in (10, 20):
            with clock.timed("inner"):
                ticks.now += seconds
                with clock.timed("innermost"):
                    ticks.now += 100
        ticks.now += 2
    with clock.timed("inner"):
        ticks.now += 1000
    clock.add({"outer": 5.0, "other": 7.0})
    assert clock.seconds == {"outer": 8, "inner": 1030, "innermost": 200, "other": 7}


def test_a_stage_that_fails_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = Ticks()
    monkeypatch.setattr(time, "thread_time", ticks)
    clock = CpuClock()
    with pytest.raises(ValueError), clock.timed("outer"):
        ticks.now += 1
        with clock.timed("inner"):
            ticks.now += 2
            raise ValueError
    assert clock.seconds == {"outer": 1, "inner": 2}
