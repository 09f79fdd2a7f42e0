"""Signals to ranks at any time of a training: all save and end with 75, and the next start goes on."""

import os
import signal
from pathlib import Path

import pytest

from pretrain import signals
from tests.watch.starting import assert_saved_and_ended, latest, tiny_world, world

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return tiny_world(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("rank", [0, 1])
def test_one_rank_alone(rank: int, arguments: list[str], tmp_path: Path) -> None:
    with world(tmp_path, arguments, 2) as running:
        running.wait_for_step(2)
        os.kill(running.pids()[rank], signal.SIGUSR1)
        codes, _ = running.end()
        assert codes == [75, 75], running.said
        assert_saved_and_ended(running)


def test_a_second_signal_ends_at_once(arguments: list[str], tmp_path: Path) -> None:
    """While the main thread is far from any instruction of Python's: it waits for a peer."""
    fault = {"where": "saving", "rank": 1, "seconds": 600}
    with world(tmp_path, [*arguments, "checkpoint.every=2", "watch.seconds=300"], 2, fault=fault) as running:
        running.wait_for_words("faulty: saving")
        pids = running.pids()
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        running.pause(signals.SAME_REQUEST_SECONDS + 0.5)
        assert not running.has_ended()
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        codes, took = running.end()
        assert (took < 2, codes) == (True, [-signal.SIGTERM] * 2)


def test_during_validation_which_the_next_start_makes_up_for(arguments: list[str], tmp_path: Path) -> None:
    """Two rows a pass and two seconds each: seconds remain of this validation when the run has ended."""
    slow = {"where": "validating", "seconds": 2}
    validating = [*arguments, "eval.every=2", "eval.rows=256", "train.micro_batch=1", "watch.seconds=60"]
    with world(tmp_path, validating, 2, fault=slow) as running:
        running.wait_for_words("faulty: validating")
        os.kill(running.pids()[1], signal.SIGTERM)
        codes, took = running.end()
        assert (codes, took < 20) == ([75, 75], True), running.said
        assert_saved_and_ended(running)
        assert latest(running.run) == 2
        assert (running.run / "eval.jsonl").read_text() == ""
    with world(tmp_path, [*validating, "train.stop_at_step=3"], 2) as running:
        assert running.end()[0] == [75, 75]
        (line,) = (running.run / "eval.jsonl").read_text().splitlines()
        assert line.startswith('{"step": 2,')


def test_while_saving(arguments: list[str], tmp_path: Path) -> None:
    with world(
        tmp_path, [*arguments, "checkpoint.every=2"], 2, fault={"where": "saving", "seconds": 1}
    ) as running:
        running.wait_for_words("faulty: saving")
        os.kill(running.pids()[0], signal.SIGTERM)
        assert running.end()[0] == [75, 75]
        assert_saved_and_ended(running)
