"""Worlds of real processes as a user starts them, to do something to: by hand, by torchrun, by deepspeed."""

import ctypes
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil

from tests.end_to_end.runs import ONE_THREAD, SEQ_LEN, free_port, write_model
from tests.tiny_store import write_tiny_store
from tests.watch import faulty
from tests.worlds import ROOT, environment

FAULTY = ROOT / "tests" / "watch" / "faulty.py"
START_SECONDS = 90.0
END_SECONDS = 60.0
WATCH_SECONDS = 3.0
# Too many steps to come to their end.
STEPS = 100_000
_PRELOADED = ("pretrain.run", "pretrain.backends.deepspeed", "pretrain.backends.fsdp", "tests.watch.starting")
_POLL_SECONDS = 0.02
CLONE_NEWNET, CLONE_NEWUTS = 0x40000000, 0x04000000  # sched.h


@dataclass(frozen=True)
class Host:
    """Stands for a machine: a network name space with one interface."""

    name: str
    interface: str
    address: str


@dataclass
class World:
    """Running ranks; `launcher` is the command a user has typed, None where the ranks were started one by one."""

    run: Path
    log: Path
    port: int
    launcher: subprocess.Popen[bytes] | None
    children: Sequence[BaseProcess]

    def pids(self) -> list[int]:
        """Of the ranks, in order."""
        if self.launcher is None:
            return [child.pid or 0 for child in self.children]
        found = {}
        for each in psutil.Process(self.launcher.pid).children(recursive=True):
            with suppress(psutil.Error):
                if any(word.endswith("faulty.py") for word in each.cmdline()) and "RANK" in each.environ():
                    rank = each.environ()["RANK"]
                    # deepspeed's own processes name the script too, and have no rank.
                    found[int(rank)] = each.pid
        return [found[rank] for rank in sorted(found)]

    @property
    def steps(self) -> int:
        metrics = self.run / "metrics.jsonl"
        return metrics.read_bytes().count(b"\n") if metrics.exists() else 0

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def errors(self) -> list[str]:
        """The sentences for the user."""
        return [line for line in self.said.splitlines() if line.startswith("error: ")]

    def wait_for(self, condition: Any, what: str, seconds: float = START_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not {what} in {seconds} s:\n{self.said[-5000:]}"
            assert not self.has_ended() or condition(), f"ended, not {what}:\n{self.said[-5000:]}"
            time.sleep(_POLL_SECONDS)

    def wait_for_step(self, step: int) -> None:
        self.wait_for(lambda: self.steps >= step, f"at step {step}")

    def wait_for_words(self, words: str) -> None:
        self.wait_for(lambda: words in self.said, f"saying {words!r}")

    def wait_for_ends(self, pids: Sequence[int], seconds: float = END_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while any(is_alive(pid) for pid in pids):
            assert time.monotonic() < deadline, f"{pids} have not ended in {seconds} s"
            time.sleep(_POLL_SECONDS)

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def has_ended(self) -> bool:
        if self.launcher is not None:
            return self.launcher.poll() is not None
        return all(child.exitcode is not None for child in self.children)

    def end(self, seconds: float = END_SECONDS, pids: Sequence[int] = ()) -> tuple[list[int], float]:
        """Exit codes (of the ranks, or of the launcher alone) and seconds until the last process had ended.

        `pids`: ranks that may outlive their launcher.
        """
        began = time.monotonic()
        while not (self.has_ended() and not any(is_alive(pid) for pid in pids)):
            assert time.monotonic() - began < seconds, f"has not ended in {seconds} s:\n{self.said[-5000:]}"
            time.sleep(_POLL_SECONDS)
        took = time.monotonic() - began
        if self.launcher is not None:
            return [self.launcher.returncode], took
        return [child.exitcode or 0 for child in self.children], took


def is_alive(pid: int) -> bool:
    """Running or stopped; not what waits for its parent to read its exit code."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def tiny_world(folder: Path) -> list[str]:
    """A store and a model below `folder`, and the arguments of a run on them."""
    write_tiny_store(folder / "store", 60)
    model = write_model(folder / "tiny.json")
    return [
        f"--data={folder / 'store'}",
        f"model.config={model}",
        "train.global_batch=12",
        f"data.seq_len={SEQ_LEN}",
        "eval.rows=8",
        f"train.steps={STEPS}",
        f"watch.seconds={WATCH_SECONDS}",
    ]


@contextmanager
def world(
    folder: Path,
    arguments: Sequence[str],
    ranks: int,
    launcher: str = "plain",
    backend: str = "fsdp",
    fault: Mapping[str, Any] | None = None,
    options: Sequence[str] = (),
    hosts: Sequence[Host] = (),
) -> Iterator[World]:
    """A started run with its folder at `folder/run`; no process of it outlives the block.

    `launcher`: "plain", "torchrun" or "deepspeed", with `options` of its own. `hosts`: of plain ranks, one for each.
    """
    log = folder / "log"
    with suppress(FileNotFoundError):
        log.unlink()
    log.touch()
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    own = {"FAULT": json.dumps(fault or {}), "PYTHONUNBUFFERED": "1", "TMPDIR": str(temporary)}
    env = environment(ONE_THREAD | own)
    typed = [f"--backend={backend}", f"--output={folder / 'run'}", *arguments]
    port = free_port()
    process, children = None, []
    if launcher == "plain":
        children = [_forked(env, rank, ranks, port, typed, log, hosts) for rank in range(ranks)]
    else:
        count = {"deepspeed": "--num_gpus", "torchrun": "--nproc-per-node"}[launcher]
        command = [launcher, count, str(ranks), f"--master_port={port}", *options, str(FAULTY), *typed]
        with open(log, "ab") as output:
            process = subprocess.Popen(
                command, env=env, cwd=folder, stdout=output, stderr=output, start_new_session=True
            )
    started = World(folder / "run", log, port, process, children)
    ours: set[int] = set()
    try:
        yield started
        ours = set(started.pids()) if process is None or process.poll() is None else set()
    finally:
        _end_all(process, children, ours)


def _end_all(
    process: subprocess.Popen[bytes] | None, children: Sequence[BaseProcess], ours: set[int]
) -> None:
    if process is not None:
        below = []
        with suppress(psutil.NoSuchProcess):
            below = psutil.Process(process.pid).children(recursive=True)
        for each in [*below, *(psutil.Process(pid) for pid in ours if psutil.pid_exists(pid))]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for child in children:
        child.kill()
        child.join()


def _forked(
    env: Mapping[str, str],
    rank: int,
    ranks: int,
    port: int,
    typed: Sequence[str],
    log: Path,
    hosts: Sequence[Host],
) -> BaseProcess:
    """A rank that is started by hand, forked where the libraries are imported, which takes longer than the test."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    own = {
        **env,
        "RANK": str(rank),
        "LOCAL_RANK": "0" if hosts else str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": "1" if hosts else str(ranks),
        "MASTER_ADDR": hosts[0].address if hosts else "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    if hosts:
        own["GLOO_SOCKET_IFNAME"] = hosts[rank].interface
    process = context.Process(target=_be_rank, args=(own, list(typed), log, hosts[rank] if hosts else None))
    process.start()
    return process


def _be_rank(own: Mapping[str, str], typed: Sequence[str], log: Path, host: Host | None) -> None:
    os.setsid()
    if host is not None:
        _move_to(host)
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.clear()
    os.environ.update(own)
    os.chdir(log.parent)
    sys.argv = [str(FAULTY), *typed]
    faulty.main()


def _move_to(host: Host) -> None:
    """This process sees the host's network, and its name."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{host.name}") as space:
        assert libc.setns(space.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    assert libc.unshare(CLONE_NEWUTS) == 0, os.strerror(ctypes.get_errno())
    socket.sethostname(host.name)


def named_rank(sentence: str) -> int:
    """The rank that a sentence is about."""
    found = re.match(r"error: Rank (\d+)", sentence)
    assert found is not None, sentence
    return int(found[1])


def named_step(sentence: str) -> int:
    found = re.search(r"in step (\d+)", sentence)
    assert found is not None, sentence
    return int(found[1])


def latest(run: Path) -> int:
    return int((run / "checkpoints" / "latest").read_text().strip().removeprefix("step-"))


def assert_saved_and_ended(running: World) -> None:
    """One sentence, a checkpoint of the last step, no lock."""
    (sentence,) = running.errors
    step = latest(running.run)
    assert f"after step {step}, saved" in sentence
    assert running.steps == step
    assert not (running.run / "run.lock").exists()
