"""Worlds of several ranks, and commands as a user types them.

`run_ranks` starts fresh processes that meet through a file, run one function with a gloo process group, and
hand back what it returned, in rank order. Nothing is inherited: no port, no fork, no state of the test.
"""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist

ROOT = Path(__file__).resolve().parents[1]
# What a test's own launcher, or this machine's, may have set and a fresh world must not see.
_LAUNCHER_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "LOCAL_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "SLURM_JOB_ID",
)
_KILL_GRACE_SECONDS = 5.0


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without a launcher's variables, with this checkout and `extra`.

    The environment's own commands (`deepspeed`, `torchrun`) come first on the path, as after activating it.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in _LAUNCHER_VARIABLES}
    commands = str(Path(sys.executable).parent)
    inherited["PATH"] = os.pathsep.join([commands, inherited.get("PATH", os.defpath)])
    inherited["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), inherited.get("PYTHONPATH")]))
    inherited["TOKENIZERS_PARALLELISM"] = "false"
    return inherited | dict(extra or {})


def run_command(
    arguments: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    timeout: float = 120.0,
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end; stdout and stderr are kept apart, as text.

    Past `timeout` seconds the command and all its descendants are killed, and AssertionError shows what they
    had printed. `env` is added to `environment()`.
    """
    with (
        tempfile.TemporaryFile("w+", errors="replace") as out,
        tempfile.TemporaryFile("w+", errors="replace") as err,
    ):
        process = subprocess.Popen(
            [str(each) for each in arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=cwd,
            env=environment(env),
            start_new_session=True,
        )
        try:
            process.wait(timeout)
            timed_out = False
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            _kill_session(process)
        out.seek(0)
        err.seek(0)
        result = subprocess.CompletedProcess(process.args, process.returncode, out.read(), err.read())
    assert not timed_out, f"{result.args} ran past {timeout} s.\n{result.stdout}\n{result.stderr}"
    return result


def run_ranks(function: Callable[..., Any], world_size: int, *args: Any, timeout: float = 120.0) -> list[Any]:
    """`function(*args)` on each of `world_size` gloo ranks; its results in rank order.

    `function` is a top-level one of an importable module, and it, `args` and the results can be pickled;
    inside, `torch.distributed` is initialised and torch uses one thread. If a rank raises or dies, or time
    runs out, all ranks are killed and AssertionError carries the traceback of each rank that failed.
    """
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        work = Path(folder)
        (work / "task").write_bytes(pickle.dumps((function, args)))
        ranks = [_start_rank(work, rank, world_size, timeout) for rank in range(world_size)]
        try:
            late = _wait(ranks, time.monotonic() + timeout)
        finally:
            for rank in ranks:
                _kill_session(rank)
        failures = [_failure(work, rank, late) for rank in range(world_size) if not _succeeded(work, rank)]
        assert not failures, "\n".join([f"{function.__qualname__} failed:", *failures])
        return [pickle.loads((work / f"result-{rank}").read_bytes()) for rank in range(world_size)]


def _start_rank(work: Path, rank: int, world_size: int, timeout: float) -> subprocess.Popen[bytes]:
    # The tests' own modules are importable in a rank whatever folder pytest was started in.
    command = [sys.executable, "-m", "tests.worlds", str(work), str(rank), str(world_size), str(timeout)]
    with (work / f"output-{rank}").open("wb") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=ROOT,
            env=environment({"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}),
            start_new_session=True,
        )


def _wait(ranks: Sequence[subprocess.Popen[bytes]], deadline: float) -> bool:
    """Until all have ended well, or one has not; true where time ran out.

    The peers of a failed rank get a little time to fail as well: theirs may be the telling message.
    """
    while time.monotonic() < deadline:
        codes = [rank.poll() for rank in ranks]
        if None not in codes:
            return False
        if any(codes):
            deadline = min(deadline, time.monotonic() + _KILL_GRACE_SECONDS)
        time.sleep(0.02)
    return not any(rank.poll() for rank in ranks)


def _succeeded(work: Path, rank: int) -> bool:
    return (work / f"result-{rank}").exists()


def _failure(work: Path, rank: int, late: bool) -> str:
    output = (work / f"output-{rank}").read_text(errors="replace").strip()
    return f"--- rank {rank}{': ran out of time' if late else ''}\n{output or '(killed; it printed nothing)'}"


def _kill_session(process: subprocess.Popen[Any]) -> None:
    """Ends a process, its descendants and what they left behind in its session."""
    descendants = []
    with suppress(psutil.NoSuchProcess):  # torchrun gives each worker a session of its own
        descendants = psutil.Process(process.pid).children(recursive=True)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for each in descendants:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()


def _rank_main(work: Path, rank: int, world_size: int, timeout: float) -> None:
    """One rank, in its own process: `python -m tests.worlds FOLDER RANK WORLD_SIZE TIMEOUT`."""
    torch.set_num_threads(1)
    function, args = pickle.loads((work / "task").read_bytes())
    dist.init_process_group(
        "gloo",
        store=dist.FileStore(str(work / "rendezvous"), world_size),
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=timeout),
    )
    result = function(*args)
    dist.barrier()
    dist.destroy_process_group()
    partial = work / f"result-{rank}.partial"
    partial.write_bytes(pickle.dumps(result))
    partial.rename(work / f"result-{rank}")


if __name__ == "__main__":
    try:
        _rank_main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        # A dead peer's connections would otherwise hold up the interpreter's end.
        os._exit(1)
