"""A signal while the demo store is built, before the first step: all end, and the next start builds on.

Kills and signals in other parts of start-up are rows of the matrix of faults.
"""

import os
import signal
from pathlib import Path

import psutil
import pytest

from pretrain.data.store import verify_store
from pretrain.faults.bench import Bench
from pretrain.faults.world import world

SMALL_DEMO = Path(__file__).with_name("small_demo.py")
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("rank", [0, 1])
def test_while_the_demo_store_is_built(rank: int, bench: Bench, tmp_path: Path, in_full: bool) -> None:
    """By rank 0, in a process of its own that ends with it; the next start builds on."""
    if rank == 0 and not in_full:
        pytest.skip("in full only")
    demo = [each for each in bench.arguments(100_000) if not each.startswith("--data")]
    demo.append("train.stop_at_step=1")
    store = tmp_path / "runs" / "demo-store"
    with world(SMALL_DEMO, tmp_path, demo, 2) as running:
        running.wait_for(lambda: list(tmp_path.glob("runs/*demo-store*")), "building")
        builders = [each.pid for each in psutil.Process(running.pids()[0]).children(recursive=True)]
        assert builders
        os.kill(running.pids()[rank], signal.SIGTERM)
        codes, took = running.end()
        assert (codes, took < 15) == ([75] * 2, True)
        # The builder, which is a command of its own, says that it was stopped as well.
        words = ("before the first step", "start again to begin")
        assert any(all(each in said for each in words) for said in running.errors), running.said
        running.wait_for_ends(builders)
        # Nothing half made; where the builder was faster than the word of the signal, the whole.
        assert not store.exists() or verify_store(store, full=True) == []
    with world(SMALL_DEMO, tmp_path, demo, 2) as running:
        assert running.end(seconds=120)[0] == [75] * 2, running.said
        assert running.steps == 1
