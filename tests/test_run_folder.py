"""A run's folder: who holds it, who may take it over, and what is written whole."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pretrain.errors import UsageError
from pretrain.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "runs" / "mine")
    made.create()
    return made


@pytest.fixture
def live_pid() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


def dead_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def hold(folder: RunFolder, **holder: object) -> Path:
    path = folder.path / "run.lock"
    path.write_text(json.dumps({"host": socket.gethostname(), "job": None, **holder}))
    return path


def test_lock_says_who_holds_it_until_it_is_given_back(folder: RunFolder) -> None:
    folder.lock("77")
    path = folder.path / "run.lock"
    assert json.loads(path.read_text()) == {"host": socket.gethostname(), "pid": os.getpid(), "job": "77"}
    folder.unlock()
    assert not path.exists()
    folder.unlock()


def test_second_run_is_refused_by_name(folder: RunFolder, live_pid: int) -> None:
    path = hold(folder, pid=live_pid)
    with pytest.raises(UsageError) as error:
        folder.lock(None)
    for part in (str(folder.path), f"process {live_pid}", socket.gethostname(), str(path)):
        assert part in str(error.value)
    assert json.loads(path.read_text())["pid"] == live_pid


def test_lock_of_a_dead_process_is_taken_over(folder: RunFolder) -> None:
    path = hold(folder, pid=dead_pid())
    folder.lock(None)
    assert json.loads(path.read_text())["pid"] == os.getpid()


def test_another_host_is_believed(folder: RunFolder) -> None:
    hold(folder, host="elsewhere", pid=dead_pid())
    with pytest.raises(UsageError, match="on elsewhere"):
        folder.lock("77")


def test_the_same_batch_job_started_again_takes_its_lock(folder: RunFolder, live_pid: int) -> None:
    """On whatever host: a scheduler requeues a job only after it has ended."""
    path = hold(folder, host="elsewhere", pid=live_pid, job="77")
    folder.lock("77")
    assert json.loads(path.read_text())["host"] == socket.gethostname()


def test_another_batch_job_does_not(folder: RunFolder, live_pid: int) -> None:
    hold(folder, pid=live_pid, job="76")
    with pytest.raises(UsageError, match="in use"):
        folder.lock("77")


def test_unreadable_lock_is_respected(folder: RunFolder) -> None:
    (folder.path / "run.lock").write_text('{"host": ')
    with pytest.raises(UsageError, match=r"delete .*run\.lock"):
        folder.lock(None)


def test_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file/mine cannot be written"):
        RunFolder(tmp_path / "file" / "mine").create()


def test_config_is_written_whole(folder: RunFolder) -> None:
    folder.write_config({"recipe": {"seed": 1}})
    assert json.loads(folder.config.read_text()) == {"recipe": {"seed": 1}}
    assert [path.name for path in folder.path.iterdir()] == ["config.json"]
