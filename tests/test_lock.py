"""The lock of a run folder: who holds it, who may take it over, and that two never have it."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pretrain import lock
from pretrain.errors import UsageError
from pretrain.lock import FolderLock, process_began
from tests.worlds import environment

STARTERS, ROUNDS = 8, 5


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.lock"


@pytest.fixture
def live_pid() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


def dead_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def hold(path: Path, **holder: object) -> None:
    """What a holder left that has no lock of the kernel any more."""
    path.write_text(json.dumps({"host": socket.gethostname(), "job": None, **holder}))


def held_by(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_it_says_who_holds_it_until_it_is_given_back(path: Path) -> None:
    taken = FolderLock(path)
    taken.take("77")
    assert held_by(path) == {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "began": process_began(os.getpid()),
        "job": "77",
    }
    taken.give_back()
    assert not path.exists()
    taken.give_back()


def test_a_second_run_is_refused_by_name(path: Path, live_pid: int) -> None:
    hold(path, pid=live_pid, began=process_began(live_pid))
    with pytest.raises(UsageError) as error:
        FolderLock(path).take(None)
    for part in (str(path.parent), f"process {live_pid}", socket.gethostname(), str(path)):
        assert part in str(error.value)
    assert held_by(path)["pid"] == live_pid


def test_of_an_older_release_the_number_alone_tells(path: Path, live_pid: int) -> None:
    hold(path, pid=live_pid)
    with pytest.raises(UsageError, match="in use"):
        FolderLock(path).take(None)


@pytest.mark.parametrize("began", [{}, {"began": "boot 1"}])
def test_the_lock_of_a_dead_process_is_taken_over(path: Path, began: dict[str, str]) -> None:
    hold(path, pid=dead_pid(), **began)
    FolderLock(path).take(None)
    assert held_by(path)["pid"] == os.getpid()


@pytest.mark.parametrize("boot", ["", "another-boot "])
def test_a_number_that_another_process_has_now_is_told_by_its_beginning(
    path: Path, live_pid: int, boot: str
) -> None:
    began = process_began(live_pid)
    assert began is not None
    same_boot, ticks = began.split()
    hold(path, pid=live_pid, began=f"{boot or same_boot + ' '}{int(ticks) - (not boot)}".replace("  ", " "))
    FolderLock(path).take(None)
    assert held_by(path)["pid"] == os.getpid()


def test_another_host_is_believed(path: Path) -> None:
    hold(path, host="elsewhere", pid=dead_pid())
    with pytest.raises(UsageError, match="on elsewhere"):
        FolderLock(path).take("77")


def test_the_same_batch_job_started_again_takes_its_lock(path: Path, live_pid: int) -> None:
    """On whatever host: a scheduler requeues a job only after it has ended."""
    hold(path, host="elsewhere", pid=live_pid, job="77")
    FolderLock(path).take("77")
    assert held_by(path)["host"] == socket.gethostname()


def test_another_batch_job_does_not(path: Path, live_pid: int) -> None:
    hold(path, pid=live_pid, job="76")
    with pytest.raises(UsageError, match="in use"):
        FolderLock(path).take("77")


@pytest.mark.parametrize("content", ['{"host": ', "[]", "[" * 10_000, "x" * 100_000])
def test_an_unreadable_lock_is_respected(path: Path, content: str) -> None:
    path.write_text(content)
    with pytest.raises(UsageError, match=r"another process: .* delete .*run\.lock"):
        FolderLock(path).take(None)


def test_an_empty_one_is_of_a_start_that_was_killed(path: Path) -> None:
    path.touch()
    FolderLock(path).take(None)
    assert held_by(path)["pid"] == os.getpid()


def test_a_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    path.symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        FolderLock(path).take(None)
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_file_that_its_holder_deleted_meanwhile_is_no_lock(
    path: Path, live_pid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening the file and locking it, its holder ends and somebody else begins."""
    hold(path, pid=dead_pid())
    calls = []

    def locked_late(descriptor: int) -> bool:
        calls.append(descriptor)
        if len(calls) == 1:
            path.unlink()
            hold(path, pid=live_pid, began=process_began(live_pid))
        return True

    monkeypatch.setattr(lock, "_lock", locked_late)
    with pytest.raises(UsageError, match=f"process {live_pid}"):
        FolderLock(path).take(None)
    assert len(calls) == 2


def take_and_wait(path: Path) -> None:
    FolderLock(path).take(None)
    time.sleep(60)


def test_the_kernel_s_lock_speaks_where_the_file_says_nothing(path: Path) -> None:
    """As between a holder's opening the file and its writing itself in."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=take_and_wait, args=(path,))
    process.start()
    while not path.exists() or not path.read_text():
        time.sleep(0.01)
    path.write_text("")
    with pytest.raises(UsageError, match="in use by another process"):
        FolderLock(path).take(None)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    FolderLock(path).take(None)


_STARTER = """
import sys, time
from pathlib import Path
from pretrain.errors import UsageError
from pretrain.lock import FolderLock
lock, begin = FolderLock(Path(sys.argv[1])), float(sys.argv[2])
time.sleep(max(0.0, begin - time.time()))
try:
    lock.take(None)
except UsageError:
    print("refused")
else:
    print("taken", flush=True)
    input()
"""


def test_of_many_starters_of_one_stale_lock_one_has_it(path: Path) -> None:
    for _ in range(ROUNDS):
        hold(path, pid=dead_pid(), began="boot 1")
        begin = time.time() + 1.0
        starters = [
            subprocess.Popen(
                [sys.executable, "-c", _STARTER, str(path), str(begin)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment(),
            )
            for _ in range(STARTERS)
        ]
        said = [starter.stdout.readline().strip() for starter in starters if starter.stdout is not None]
        assert sorted(said) == ["refused"] * (STARTERS - 1) + ["taken"]
        assert held_by(path)["pid"] == starters[said.index("taken")].pid
        for starter in starters:
            starter.kill()
            starter.communicate()


def test_those_who_come_and_go_never_meet(path: Path, tmp_path: Path) -> None:
    """Each takes the lock, marks the folder, and gives both back; a mark that is there is a meeting."""
    script = f"""
import os, time
from pathlib import Path
from pretrain.errors import UsageError
from pretrain.lock import FolderLock
path, mark, end, turns = Path({str(path)!r}), Path({str(tmp_path / "mark")!r}), time.time() + 2.0, 0
while time.time() < end:
    lock = FolderLock(path)
    try:
        lock.take(None)
    except UsageError:
        continue
    os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    mark.unlink()
    lock.give_back()
    turns += 1
print(turns)
"""
    starters = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment())
        for _ in range(3)
    ]
    turns = [int(starter.communicate()[0]) for starter in starters]
    assert [starter.returncode for starter in starters] == [0, 0, 0]
    assert sum(turns) > 10
