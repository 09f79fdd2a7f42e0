"""Worlds of several ranks, and commands as a user types them.

`run_ranks` starts processes that meet through a file, run one function with a gloo process group, and hand back what
it returned, in rank order. They are forked from one process that has imported the libraries, which takes longer than
most worlds, and has done nothing else: no port, no thread and no state of a test is inherited. `run_python` forks a
command from it in the same way, where that it is typed is not what is tried.
"""

import multiprocessing
import os
import pickle
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist

from pretrain import comm

ROOT = Path(__file__).resolve().parents[1]
_KILL_GRACE_SECONDS = 5.0
# What nearly every rank needs.
_IMPORTED_ONCE = ("pretrain.faults.forked_from", "tests.worlds")
# What libraries read while they are imported.
_FORKED_FROM = {
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
}


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """`comm.command_environment` with this checkout."""
    return comm.command_environment(ROOT, extra)


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
    return _in_time(result, timed_out, timeout)


def run_python(
    *arguments: str | Path, env: Mapping[str, str] | None = None, cwd: Path = ROOT, timeout: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """`python ARGUMENTS`, a script or "-m" and a module first, to its end as by `run_command`, but forked."""
    typed = [str(each) for each in arguments]
    with tempfile.TemporaryDirectory(prefix="python-") as folder:
        work = Path(folder)
        process = _forked(
            _python_main, work, typed, cwd, environment({"OMP_NUM_THREADS": "1", **(env or {})})
        )
        try:
            process.join(timeout)
            code = process.exitcode
        finally:
            _end(process)
        out, err = ((work / name).read_text(errors="replace") for name in ("out", "err"))
        result = subprocess.CompletedProcess(["python", *typed], -1 if code is None else code, out, err)
    return _in_time(result, code is None, timeout)


def _in_time(
    result: subprocess.CompletedProcess[str], timed_out: bool, timeout: float
) -> subprocess.CompletedProcess[str]:
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
                _end(rank)
        failures = [_failure(work, rank, late) for rank in range(world_size) if not _succeeded(work, rank)]
        assert not failures, "\n".join([f"{function.__qualname__} failed:", *failures])
        return [pickle.loads((work / f"result-{rank}").read_bytes()) for rank in range(world_size)]


def _start_rank(work: Path, rank: int, world_size: int, timeout: float) -> BaseProcess:
    # The tests' own modules are importable in a rank whatever folder pytest was started in.
    # No GPU: the world is one of gloo, and a process that has looked at a GPU cannot be forked to use it.
    own = environment({"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": ""})
    return _forked(_rank_main, work, rank, world_size, timeout, own)


def _forked(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """`target(*arguments)` in a process forked from the one that has imported the libraries, which the first starts."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_IMPORTED_ONCE))
    process = context.Process(target=target, args=arguments)
    with _as_environment(environment(_FORKED_FROM)):
        process.start()
    return process


def _end(process: BaseProcess) -> None:
    """A forked process, its descendants and what they left behind in its session."""
    assert process.pid is not None
    _kill_descendants(process.pid)
    process.kill()
    process.join()


@contextmanager
def _as_environment(content: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    try:
        os.environ.clear()
        os.environ.update(content)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _wait(ranks: Sequence[BaseProcess], deadline: float) -> bool:
    """Until all have ended well, or one has not; true where time ran out.

    The peers of a failed rank get a little time to fail as well: theirs may be the telling message.
    """
    while time.monotonic() < deadline:
        codes = [rank.exitcode for rank in ranks]
        if None not in codes:
            return False
        if any(codes):
            deadline = min(deadline, time.monotonic() + _KILL_GRACE_SECONDS)
        time.sleep(0.02)
    return not any(rank.exitcode for rank in ranks)


def _succeeded(work: Path, rank: int) -> bool:
    return (work / f"result-{rank}").exists()


def _failure(work: Path, rank: int, late: bool) -> str:
    output = (work / f"output-{rank}").read_text(errors="replace").strip()
    return f"--- rank {rank}{': ran out of time' if late else ''}\n{output or '(killed; it printed nothing)'}"


def _kill_session(process: subprocess.Popen[Any]) -> None:
    """Ends a process, its descendants and what they left behind in its session."""
    _kill_descendants(process.pid)
    process.wait()


def _kill_descendants(leader: int) -> None:
    """Ends the session that this process leads, and its descendants in others."""
    descendants = []
    with suppress(psutil.NoSuchProcess):  # torchrun gives each worker a session of its own
        descendants = psutil.Process(leader).children(recursive=True)
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
    for each in descendants:
        with suppress(psutil.NoSuchProcess):
            each.kill()


def _rank_main(work: Path, rank: int, world_size: int, timeout: float, own: Mapping[str, str]) -> None:
    """One rank, in its own process: what it prints goes into a file, and it leads a session of its own."""
    os.setsid()
    output = os.open(work / f"output-{rank}", os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.clear()
    os.environ.update(own)
    os.chdir(ROOT)
    try:
        _run_task(work, rank, world_size, timeout)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        # A dead peer's connections would otherwise hold up the interpreter's end.
        os._exit(1)


def _python_main(work: Path, typed: list[str], cwd: Path, own: Mapping[str, str]) -> None:
    """A command as the interpreter would start it, in a session of its own; what it prints goes into two files."""
    os.setsid()
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(work / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    comm.take_environment(own)
    torch.set_num_threads(int(own["OMP_NUM_THREADS"]))
    os.chdir(cwd)
    if typed[0] == "-m":
        sys.argv = typed[1:]
        runpy.run_module(typed[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = typed
        sys.path.insert(0, str(Path(typed[0]).parent))
        runpy.run_path(typed[0], run_name="__main__")


def _run_task(work: Path, rank: int, world_size: int, timeout: float) -> None:
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
