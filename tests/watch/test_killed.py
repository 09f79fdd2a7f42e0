"""A rank is killed: the others end at once, one sentence names it, nothing is left behind, and the run goes on."""

import os
import random
import signal
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from tests.watch.starting import named_rank, named_step, tiny_world, world

pytestmark = pytest.mark.slow
SECONDS = 10.0
KILLS_IN_FULL, KILLS = 20, 3


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return tiny_world(tmp_path_factory.mktemp("tiny"))


def unused_shared_memory() -> set[str]:
    """Segments that no process maps, so that nobody will ever take them away."""
    mapped = ""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):
            mapped += maps.read_text(errors="replace")
    return {name for name in os.listdir("/dev/shm") if f"/dev/shm/{name}" not in mapped}


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_rank_killed_at_any_step_is_named_and_all_end_in_time(
    arguments: list[str], tmp_path: Path, in_full: bool
) -> None:
    """Again and again in the same folder, so each start also goes on from what the kill before it left."""
    draws = random.Random(5)
    shared_memory, ports = unused_shared_memory(), []
    killed: set[int] = set()
    for _ in range(KILLS_IN_FULL if in_full else KILLS):
        ranks = draws.choice([2, 3])
        rank = draws.randrange(ranks)
        rank = 0 if len(killed) == 1 else rank  # the one that keeps the store is among them
        killed.add(rank)
        with world(tmp_path, [*arguments, "checkpoint.every=4"], ranks) as running:
            ports.append(running.port)
            first = running.steps
            running.wait_for_step(first + draws.randrange(1, 9))
            step = running.steps
            os.kill(running.pids()[rank], signal.SIGKILL)
            codes, took = running.end()
            assert took < SECONDS
            assert codes[rank] == -signal.SIGKILL
            others = {code for each, code in enumerate(codes) if each != rank}
            assert len(others) == 1 and others <= {1, 75}, running.said
            (sentence,) = running.errors
            assert named_rank(sentence) == rank
            assert step <= named_step(sentence) <= running.steps + 1
            assert not (running.run / "run.lock").exists() or rank == 0
    assert not unused_shared_memory() - shared_memory
    assert not list((tmp_path / "tmp").iterdir())
    assert not any(map(listens, ports))
