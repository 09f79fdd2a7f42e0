"""Signals at any time, to a rank or to its launcher: all ranks save and end with 75, and the next start goes on."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pretrain import signals
from tests.watch.starting import World, tiny_world, world

pytestmark = pytest.mark.slow
# Handed on to the ranks instead of ending torchrun.
HANDLED = "--signals-to-handle=SIGTERM,SIGINT,SIGUSR1"


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return tiny_world(tmp_path_factory.mktemp("tiny"))


def latest(run: Path) -> int:
    return int((run / "checkpoints" / "latest").read_text().strip().removeprefix("step-"))


def assert_saved_and_ended(running: World) -> None:
    """One sentence, a checkpoint of the last step, no lock."""
    (sentence,) = running.errors
    step = latest(running.run)
    assert f"after step {step}, saved" in sentence
    assert running.steps == step
    assert not (running.run / "run.lock").exists()


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
    with world(tmp_path, [*arguments, "checkpoint.every=2"], 2, fault={"where": "saving", "seconds": 1}) as running:
        running.wait_for_words("faulty: saving")
        os.kill(running.pids()[0], signal.SIGTERM)
        assert running.end()[0] == [75, 75]
        assert_saved_and_ended(running)


@pytest.mark.parametrize(
    ("launcher", "options", "number", "code"),
    [
        ("torchrun", [HANDLED], signal.SIGUSR1, 1),
        ("torchrun", [], signal.SIGUSR1, -signal.SIGUSR1),
        ("torchrun", [], signal.SIGTERM, 1),
        ("torchrun", [], signal.SIGKILL, -signal.SIGKILL),
        ("deepspeed", [], signal.SIGTERM, -signal.SIGTERM),
        ("deepspeed", [], signal.SIGKILL, -signal.SIGKILL),
    ],
    ids=lambda value: value.name if isinstance(value, signal.Signals) else None,
)
def test_a_launcher(
    launcher: str,
    options: list[str],
    number: signal.Signals,
    code: int,
    arguments: list[str],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    in_full: bool,
) -> None:
    """Whatever becomes of the launcher, its ranks save and end."""
    if not in_full and (launcher, number) not in {
        ("torchrun", signal.SIGUSR1),
        ("deepspeed", signal.SIGTERM),
    }:
        pytest.skip("in full only")
    backend = "fsdp" if launcher == "torchrun" else "deepspeed"
    with world(tmp_path, arguments, 2, launcher, backend, options=options) as running:
        running.wait_for_step(2)
        assert running.launcher is not None
        pids = running.pids()
        below = [each.pid for each in psutil.Process(running.launcher.pid).children(recursive=True)]
        os.kill(running.launcher.pid, number)
        codes, _ = running.end(pids=below)
        assert codes == [code]
        assert len(pids) == 2
        assert_saved_and_ended(running)


def in_start_up(running: World, act: Callable[[list[int]], None]) -> list[int]:
    act(running.pids())
    codes, took = running.end()
    assert took < 15
    (sentence,) = running.errors
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
        assert in_start_up(running, lambda pids: os.kill(pids[rank], signal.SIGTERM)) == [75] * 2
        running.wait_for_ends(builders)
        assert not (store / "manifest.json").exists()
    with world(tmp_path, demo, 2) as running:
        assert running.end(seconds=120)[0] == [75] * 2, running.said
        assert running.steps == 1
