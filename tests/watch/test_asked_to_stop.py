"""A signal during validation, in detail; those at other times are rows of the matrix of faults."""

import os
import signal
from pathlib import Path

import pytest

from pretrain.faults.bench import Bench
from pretrain.faults.world import expect_saved_and_ended, latest, world

pytestmark = pytest.mark.slow


def test_during_validation_which_the_next_start_makes_up_for(bench: Bench, tmp_path: Path) -> None:
    """Two rows a pass and two seconds each: seconds remain of this validation when the run has ended."""
    slow = {"where": "validating", "seconds": 2}
    more = ("eval.every=2", "eval.rows=256", "train.micro_batch=1", "watch.seconds=60")
    validating = bench.arguments(100_000, *more)
    with world(bench.launch, tmp_path, validating, 2, fault=slow) as running:
        running.wait_for_words("faulty: validating")
        os.kill(running.pids()[1], signal.SIGTERM)
        codes, took = running.end()
        assert (codes, took < 20) == ([75, 75], True), running.said
        expect_saved_and_ended(running)
        assert latest(running.run) == 2
        assert (running.run / "eval.jsonl").read_text() == ""
    with world(bench.launch, tmp_path, [*validating, "train.stop_at_step=3"], 2) as running:
        assert running.end()[0] == [75, 75]
        (line,) = (running.run / "eval.jsonl").read_text().splitlines()
        assert line.startswith('{"step": 2,')
