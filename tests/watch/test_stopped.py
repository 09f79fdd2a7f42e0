"""Ranks that are all stopped together go on; one that is stopped alone is a row of the matrix of faults."""

import os
import signal
from pathlib import Path

import pytest

from pretrain.faults.bench import WATCH_SECONDS, Bench
from pretrain.faults.world import world

pytestmark = pytest.mark.slow


def test_all_stopped_together_for_long_go_on(bench: Bench, tmp_path: Path) -> None:
    """As a scheduler does to make room, in the midst of something long: for it no time has passed."""
    slow = {"where": "saving", "call": 1, "seconds": WATCH_SECONDS * 2 / 3}
    typed = bench.arguments(100_000, "checkpoint.every=4")
    with world(bench.launch, tmp_path, typed, 2, fault=slow) as running:
        running.wait_for_words("faulty: saving")
        running.pause(WATCH_SECONDS / 4)  # until both watchdogs have seen it
        for number, seconds in ((signal.SIGSTOP, WATCH_SECONDS + 2), (signal.SIGCONT, 0)):
            for pid in running.pids():
                os.kill(pid, number)
            running.pause(seconds)
        running.wait_for_step(7)
        assert not running.has_ended(), running.said
