"""Signals to torchrun and to deepspeed, and ranks killed under them: whatever becomes of a launcher, all end."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.watch.starting import assert_saved_and_ended, named_rank, named_step, tiny_world, world

pytestmark = pytest.mark.slow
SECONDS = 10.0
# Handed on to the ranks instead of ending torchrun.
HANDLED = "--signals-to-handle=SIGTERM,SIGINT,SIGUSR1"


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return tiny_world(tmp_path_factory.mktemp("tiny"))


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
def test_its_ranks_save_and_end(
    launcher: str,
    options: list[str],
    number: signal.Signals,
    code: int,
    arguments: list[str],
    tmp_path: Path,
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


@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])
def test_a_rank_killed_under_it(launcher: str, arguments: list[str], tmp_path: Path, in_full: bool) -> None:
    if launcher == "torchrun" and not in_full:
        pytest.skip("in full only")
    backend = "fsdp" if launcher == "torchrun" else "deepspeed"
    with world(tmp_path, arguments, 2, launcher, backend) as running:
        running.wait_for_step(3)
        pids = running.pids()
        os.kill(pids[1], signal.SIGKILL)
        codes, took = running.end(pids=pids)
        assert (took < SECONDS, codes == [0]) == (True, False)
        (sentence,) = running.errors
        assert named_rank(sentence) == 1
        assert named_step(sentence) >= 4
