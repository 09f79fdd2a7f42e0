"""Worlds of real processes as a user starts them, to do something to: by hand, by torchrun, by deepspeed."""

import ctypes
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import torch

from pretrain import comm
from pretrain.faults import faulty
from pretrain.faults.row import Red, expect, only

FAULTY = Path(faulty.__file__)
ROOT = FAULTY.parents[2]
# A machine may be busy with other things; what is promised in seconds is looked at apart.
START_SECONDS = 120.0
END_SECONDS = 90.0
_OFFLINE = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "PYTHONUNBUFFERED": "1",
}
_SHOWN_CHARACTERS = 5000
_POLL_SECONDS = 0.02
CLONE_NEWNET, CLONE_NEWUTS = 0x40000000, 0x04000000  # sched.h
_PR_SET_PDEATHSIG = 1  # prctl.h


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
            with suppress(psutil.Error, OSError):
                # deepspeed's own processes name the script too, and have no rank.
                rank = comm.rank_of(each.pid) if _is_ours(each.cmdline()) else None
                if rank is not None:
                    found[rank] = each.pid
        return [found[rank] for rank in sorted(found)]

    @property
    def steps(self) -> int:
        metrics = self.run / "metrics.jsonl"
        return metrics.read_bytes().count(b"\n") if metrics.exists() else 0

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def _last_said(self) -> str:
        return self.said[-_SHOWN_CHARACTERS:]

    @property
    def errors(self) -> list[str]:
        """The sentences for the user."""
        return [line for line in self.said.splitlines() if line.startswith("error: ")]

    @property
    def sentence(self) -> str:
        """The one for the user; raises Red where there are none or more."""
        return only(self.errors, "error messages")

    def wait_for(self, condition: Callable[[], object], what: str, seconds: float = START_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            expect(time.monotonic() < deadline, f"not {what} in {seconds} s: {self._last_said}")
            expect(not self.has_ended() or condition(), f"ended, not {what}: {self._last_said}")
            time.sleep(_POLL_SECONDS)

    def wait_for_step(self, step: int) -> None:
        self.wait_for(lambda: self.steps >= step, f"at step {step}")

    def wait_for_words(self, words: str) -> None:
        self.wait_for(lambda: words in self.said, f"saying {words!r}")

    def wait_for_ends(self, pids: Sequence[int], seconds: float = END_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while any(is_alive(pid) for pid in pids):
            expect(time.monotonic() < deadline, f"{pids} have not ended in {seconds} s")
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
            expect(time.monotonic() - began < seconds, f"has not ended in {seconds} s: {self._last_said}")
            time.sleep(_POLL_SECONDS)
        took = time.monotonic() - began
        if self.launcher is not None:
            return [self.launcher.returncode], took
        return [child.exitcode or 0 for child in self.children], took


def _is_ours(words: Sequence[str]) -> bool:
    return any(word.endswith(FAULTY.name) for word in words)


def is_alive(pid: int) -> bool:
    """Running or stopped; not what waits for its parent to read its exit code."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def world(
    script: Path,
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
    env = comm.command_environment(ROOT, {**_OFFLINE, "TMPDIR": str(temporary)})
    ours = [f"--script={script}", f"--fault={json.dumps(fault or {})}"]
    typed = [*ours, f"--backend={backend}", f"--output={folder / 'run'}", *arguments]
    port = free_port()
    process, children = None, []
    if launcher == "plain":
        children = [_forked(env, rank, ranks, port, typed, log, hosts) for rank in range(ranks)]
    else:
        count = {"deepspeed": "--num_gpus", "torchrun": "--nproc-per-node"}[launcher]
        command = [launcher, count, str(ranks), f"--master_port={port}", *options, str(FAULTY), *typed]
        with open(log, "ab") as output:
            prctl = ctypes.CDLL(None).prctl  # looked up here: between fork and exec it is too late for that
            process = subprocess.Popen(
                command,
                env=env,
                cwd=folder,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
            )
    started = World(folder / "run", log, port, process, children)
    try:
        yield started
    finally:
        _end_all(process, children, typed)


def _end_all(
    process: subprocess.Popen[bytes] | None, children: Sequence[BaseProcess], typed: Sequence[str]
) -> None:
    for child in children:
        child.kill()
        child.join()
    if process is None:
        return
    # Ranks are in sessions of their own, and may have outlived their launcher.
    for each in psutil.process_iter():
        with suppress(psutil.Error):
            if set(typed[:4]) <= set(each.cmdline()):
                each.kill()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


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
    context.set_forkserver_preload(["pretrain.faults.forked_from"])
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
    # If whoever tries this is killed, the process this one was forked from ends, and nothing is left.
    _check(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL))
    if host is not None:
        _move_to(host)
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    comm.take_environment(own)
    torch.set_num_threads(1)  # what the variable says comes too late for the process this one was forked from
    os.chdir(log.parent)
    faulty.main(list(typed))


def _move_to(host: Host) -> None:
    """This process sees the host's network, and its name."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{host.name}") as space:
        _check(libc.setns(space.fileno(), CLONE_NEWNET))
    _check(libc.unshare(CLONE_NEWUTS))
    socket.sethostname(host.name)


def _check(returned: int) -> None:
    if returned != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def named_rank(sentence: str) -> int:
    """The rank that a sentence is about."""
    return _number(r"error: Rank (\d+)", sentence)


def named_step(sentence: str) -> int:
    return _number(r"in step (\d+)", sentence)


def _number(pattern: str, sentence: str) -> int:
    found = re.search(pattern, sentence)
    if found is None:
        raise Red(f"the message names no rank or step: {sentence}")
    return int(found[1])


def latest(run: Path) -> int:
    """The step that `latest` names."""
    return int((run / "checkpoints" / "latest").read_text(encoding="utf-8").strip().removeprefix("step-"))


def expect_saved_and_ended(running: World) -> None:
    """One sentence, a checkpoint of the last step, no lock."""
    step = latest(running.run)
    expect(f"after step {step}, saved" in running.sentence, f"step {step} is saved: {running.sentence}")
    expect(running.steps == step, f"{running.steps} steps were done and {step} saved")
    expect(not (running.run / "run.lock").exists(), "the lock is still there")
