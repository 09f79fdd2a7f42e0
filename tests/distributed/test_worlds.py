"""The helpers that start other processes, before anything is tested with them."""

import os
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist

from tests.worlds import run_command, run_ranks

SLEEP = ["sleep", "987.6"]


def rank_and_sum(value: float) -> tuple[int, int, float, int]:
    total = torch.tensor(value * (dist.get_rank() + 1))
    dist.all_reduce(total)
    return dist.get_rank(), dist.get_world_size(), total.item(), torch.get_num_threads()


def fail_on(rank: int) -> None:
    if dist.get_rank() == rank:
        raise ValueError(f"nothing to be had on rank {rank}")
    dist.barrier()


def die_on(rank: int) -> None:
    if dist.get_rank() == rank:
        os._exit(9)
    dist.barrier()


def hang(folder: str) -> None:
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(600)


def test_results_come_in_rank_order() -> None:
    assert run_ranks(rank_and_sum, 3, 2.0) == [(rank, 3, 12.0, 1) for rank in range(3)]


def test_a_failing_rank_shows_its_traceback() -> None:
    with pytest.raises(
        AssertionError, match=r"(?s)rank 1.*Traceback.*fail_on.*ValueError: nothing to be had"
    ):
        run_ranks(fail_on, 2, 1)


def test_a_rank_that_dies_fails_the_world() -> None:
    with pytest.raises(AssertionError, match=r"(?s)die_on failed.*rank 0"):
        run_ranks(die_on, 2, 0, timeout=60)


@pytest.mark.slow
def test_all_ranks_are_killed_when_time_runs_out(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"(?s)rank 0: ran out of time.*rank 1: ran out of time"):
        run_ranks(hang, 2, str(tmp_path), timeout=12)
    started = [int(path.name) for path in tmp_path.iterdir()]
    assert len(started) == 2
    alive = [psutil.Process(pid) for pid in started if psutil.pid_exists(pid)]
    assert not [
        each for each in psutil.wait_procs(alive, timeout=10)[1] if each.status() != psutil.STATUS_ZOMBIE
    ]


def test_a_command_gives_code_output_and_errors_apart() -> None:
    script = "import os, sys; print(os.environ['ONE']); print('no', file=sys.stderr); sys.exit(3)"
    result = run_command([sys.executable, "-c", script], env={"ONE": "1"})
    assert (result.returncode, result.stdout, result.stderr) == (3, "1\n", "no\n")


def test_a_late_command_is_killed_with_its_descendants(tmp_path: Path) -> None:
    child = f"import subprocess as s; s.Popen({SLEEP}, start_new_session=True); s.run({SLEEP})"
    started = time.monotonic()
    with pytest.raises(AssertionError, match="ran past 2"):
        run_command([sys.executable, "-c", child], cwd=tmp_path, timeout=2)
    assert time.monotonic() - started < 60
    sleepers = [each for each in psutil.process_iter(["cmdline"]) if each.info["cmdline"] == SLEEP]
    _, alive = psutil.wait_procs(sleepers, timeout=10)  # a killed process may still be waiting to be reaped
    assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]
