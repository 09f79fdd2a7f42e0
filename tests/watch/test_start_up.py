"""Signals and kills before the first step: all end, and the next start begins as if nothing had been."""

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.watch.starting import World, tiny_world, world

pytestmark = pytest.mark.slow
KILLS_IN_FULL, KILLS = 12, 2
START_SECONDS = 4.0  # in which a start of so small a run has come to its first step


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return tiny_world(tmp_path_factory.mktemp("tiny"))


def in_start_up(running: World, act: Callable[[list[int]], None]) -> list[int]:
    act(running.pids())
    codes, took = running.end()
    assert took < 15
    # The build of the demo store, which a user may also start by itself, says its own.
    (sentence,) = [each for each in running.errors if not each.startswith("error: stopped by SIGTERM; ")]
    assert "before the first step" in sentence
    assert "start again to begin" in sentence
    return codes


def test_before_the_first_step(arguments: list[str], tmp_path: Path) -> None:
    fault = {"where": "building", "rank": 1, "seconds": 600}
    with world(tmp_path, arguments, 3, fault=fault) as running:
        running.wait_for_words("faulty: building")
        assert in_start_up(running, lambda pids: os.kill(pids[2], signal.SIGTERM)) == [75] * 3
        assert not (running.run / "run.lock").exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_while_the_demo_store_is_built(
    rank: int, arguments: list[str], tmp_path: Path, in_full: bool
) -> None:
    """By rank 0, in a process of its own that ends with it; the next start builds on."""
    if rank == 0 and not in_full:
        pytest.skip("in full only")
    demo = [each for each in arguments if not each.startswith("--data")] + ["train.stop_at_step=1"]
    store = tmp_path / "runs" / "demo-store"
    with world(tmp_path, demo, 2) as running:
        running.wait_for(lambda: list(tmp_path.glob("runs/*demo-store*")), "building")
        builders = [each.pid for each in psutil.Process(running.pids()[0]).children(recursive=True)]
        assert builders
        assert in_start_up(running, lambda pids: os.kill(pids[rank], signal.SIGTERM)) == [75] * 2
        running.wait_for_ends(builders)
        assert not (store / "manifest.json").exists()
    with world(tmp_path, demo, 2) as running:
        assert running.end(seconds=120)[0] == [75] * 2, running.said
        assert running.steps == 1


@pytest.mark.parametrize("backend", ["fsdp", "deepspeed"])
def test_killed_at_any_moment_of_it(
    backend: str, arguments: list[str], tmp_path: Path, in_full: bool
) -> None:
    """All ranks at once, as a machine does that fails."""
    draws = random.Random(7)
    for _ in range(KILLS_IN_FULL if in_full else KILLS):
        with world(tmp_path, arguments, 2, backend=backend) as running:
            running.pause(draws.uniform(0, START_SECONDS))
            for pid in running.pids():
                os.kill(pid, signal.SIGKILL)
            assert set(running.end()[0]) == {-signal.SIGKILL}
    with world(tmp_path, [*arguments, "train.stop_at_step=9"], 2, backend=backend) as running:
        assert running.end(seconds=120)[0] == [75] * 2, running.said
