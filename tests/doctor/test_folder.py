"""The output folder: not to be written, full, slow, too small, held by another run; and nothing stays behind."""

import json
import os
import socket
from functools import partial
from pathlib import Path

import pytest

from pretrain.doctor.folder import check_lock, check_room, check_writable, judged_speed, nearest
from pretrain.faults.room import small_disk
from pretrain.faults.row import NotHere
from pretrain.run_folder import RunFolder
from tests.doctor.heres import make_here, only

SMALL = 1 << 16
# The plan of a run on GPUs has the same checkpoints, and measures nothing here.
planned_here = partial(make_here, device="cuda")


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    output = tmp_path / "runs" / "new"
    only(check_writable(planned_here(output), SMALL), "ok", f"is not there yet; in {tmp_path}", "MB/s")
    only(check_lock(planned_here(output)), "ok", "no other run")
    assert os.listdir(tmp_path) == []
    assert nearest(output) == (tmp_path, 2)


def test_a_folder_that_cannot_be_written() -> None:
    """Not by root either."""
    only(
        check_writable(planned_here(Path("/sys/run")), SMALL),
        "failed",
        "/sys",
        "cannot be written",
        "another --output",
    )


def test_a_file_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    only(check_writable(planned_here(tmp_path / "file" / "run"), SMALL), "failed", "is no folder")


def test_a_disk_that_is_full_or_too_small(tmp_path: Path) -> None:
    try:
        with small_disk(tmp_path / "disk", "1m") as disk:
            parts = ("No space left on device", f"{2 << 20:,} bytes needed", "1,048,576 free")
            only(check_writable(planned_here(disk), 2 << 20), "failed", *parts)
            only(
                check_room(planned_here(disk / "run")),
                "failed",
                "1.0 MiB free",
                "checkpoint(s) of",
                "checkpoint.keep",
            )
            assert os.listdir(disk) == []
    except NotHere as reason:
        pytest.skip(str(reason))


def test_what_a_run_has_saved_counts(tmp_path: Path) -> None:
    """All that is needed is there already, but for what no disk has twice."""
    step = tmp_path / "checkpoints" / "step-00000001"
    step.mkdir(parents=True)
    with open(step / "rank-00000.safetensors", "wb") as file:
        file.truncate(1 << 30)  # sparse
    only(check_room(planned_here(tmp_path)), "ok", "expected 0.0 MiB", "1.00 GiB of which are there")


def test_a_disk_that_is_slow(tmp_path: Path) -> None:
    late = planned_here(tmp_path, seconds=1e-9)
    only(check_writable(late, SMALL), "warning", "were not on disk after 1e-09 s", "faster file system")
    only(
        [judged_speed(planned_here(tmp_path), "x", SMALL, 600.0)],
        "warning",
        "told to save 120 s",
        "--signal=USR1@",
    )


def test_a_folder_that_another_run_has(tmp_path: Path) -> None:
    lock = tmp_path / "run.lock"
    held = json.dumps({"host": f"not-{socket.gethostname()}", "pid": 4711, "began": None, "job": None})
    lock.write_text(held)
    only(check_lock(planned_here(tmp_path)), "failed", "in use by process 4711 on not-", "wait for it")
    assert lock.read_text() == held
    stale = json.dumps({"host": socket.gethostname(), "pid": 2**22 + 1, "job": None})
    lock.write_text(stale)
    only(check_lock(planned_here(tmp_path)), "ok")
    assert lock.read_text() == stale


def test_a_run_s_own_lock_is_seen_from_another_process(tmp_path: Path) -> None:
    if (child := os.fork()) == 0:
        code = 1
        try:
            RunFolder(tmp_path).check_free(None)
            only(check_lock(planned_here(tmp_path)), "ok")
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    folder = RunFolder(tmp_path)
    folder.lock(None)
    try:
        if (child := os.fork()) == 0:
            code = 1
            try:
                only(check_lock(planned_here(tmp_path)), "failed", f"process {os.getppid()}")
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        folder.unlock()
