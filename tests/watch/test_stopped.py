"""A rank stands still: it is named with what it was doing, stacks are written, and everybody ends in time."""

import os
import re
import signal
from pathlib import Path

import pytest

from tests.watch.starting import WATCH_SECONDS, named_rank, tiny_world, world

pytestmark = pytest.mark.slow
SECONDS = WATCH_SECONDS + 5


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return tiny_world(tmp_path_factory.mktemp("tiny"))


def stacks(run: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (run / "stacks").iterdir()}


@pytest.mark.parametrize("rank", [0, 1])
def test_a_stopped_rank_is_named_and_killed(rank: int, arguments: list[str], tmp_path: Path) -> None:
    """Rank 0 keeps the store, which then gives no answer."""
    with world(tmp_path, arguments, 2) as running:
        running.wait_for_step(3)
        os.kill(running.pids()[rank], signal.SIGSTOP)
        codes, took = running.end()
        assert took < SECONDS
        assert (codes[rank], codes[1 - rank]) == (-signal.SIGKILL, 1)
        (sentence,) = running.errors
        assert named_rank(sentence) == rank
        assert "is stopped in step " in sentence
        assert set(stacks(running.run)) == {f"rank-0000{1 - rank}.txt"}


@pytest.mark.parametrize(
    ("where", "file", "doing"),
    [
        ("reading data", "loader.py", "waiting for data"),
        ("saving", "run.py", "saving"),
    ],
)
def test_a_rank_that_sleeps_is_named_with_what_it_was_doing(
    where: str, file: str, doing: str, arguments: list[str], tmp_path: Path
) -> None:
    fault = {"where": where, "rank": 1, "call": 3, "seconds": 600}
    with world(tmp_path, [*arguments, "checkpoint.every=2"], 3, fault=fault) as running:
        running.wait_for_words(f"faulty: {where}")
        codes, took = running.end()
        assert took < SECONDS
        # A checkpoint was committed since the start, so there is something to go on from.
        assert set(codes) == {75}
        (sentence,) = running.errors
        assert named_rank(sentence) == 1
        assert doing in sentence
        written = stacks(running.run)
        assert set(written) == {f"rank-0000{rank}.txt" for rank in range(3)}
        assert f"{running.run}/stacks/rank-00001.txt" in sentence
        assert re.search(rf"in replaced\n.*{file}", written["rank-00001.txt"])


def test_all_stopped_together_for_long_go_on(arguments: list[str], tmp_path: Path) -> None:
    """As a scheduler does to make room, in the midst of something long: for it no time has passed."""
    slow = {"where": "saving", "call": 1, "seconds": WATCH_SECONDS * 2 / 3}
    with world(tmp_path, [*arguments, "checkpoint.every=4"], 2, fault=slow) as running:
        running.wait_for_words("faulty: saving")
        running.pause(WATCH_SECONDS / 4)  # until both watchdogs have seen it
        for number, seconds in ((signal.SIGSTOP, WATCH_SECONDS + 2), (signal.SIGCONT, 0)):
            for pid in running.pids():
                os.kill(pid, number)
            running.pause(seconds)
        running.wait_for_step(7)
        assert not running.has_ended(), running.said


def test_a_world_of_one_ends_too(arguments: list[str], tmp_path: Path) -> None:
    fault = {"where": "reading data", "call": 4, "seconds": 600}
    with world(tmp_path, arguments, 1, fault=fault) as running:
        running.wait_for_words("faulty: reading data")
        codes, took = running.end()
        assert (codes, took < SECONDS) == ([1], True)
        (sentence,) = running.errors
        assert "Rank 0" in sentence and "step 4" in sentence and "waiting for data" in sentence
        assert "in replaced" in stacks(running.run)["rank-00000.txt"]
