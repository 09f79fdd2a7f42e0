"""Locks of a killed build are removed, those of a living one are not."""

import subprocess
import sys
from pathlib import Path

from torch.utils.file_baton import FileBaton

from pretrain.extensions import recover_locks

BUILDING = """
import sys, time
from torch.utils.file_baton import FileBaton
assert FileBaton(sys.argv[1]).try_acquire()
print("building", flush=True)
time.sleep(600)
"""


def test_only_what_nobody_holds_is_removed(tmp_path: Path) -> None:
    lock = tmp_path / "py311_cpu" / "some_op" / "lock"
    lock.parent.mkdir(parents=True)
    with subprocess.Popen(
        [sys.executable, "-c", BUILDING, str(lock)], stdout=subprocess.PIPE, text=True
    ) as building:
        assert building.stdout is not None
        assert building.stdout.readline() == "building\n"
        try:
            assert recover_locks(tmp_path) == []
            assert lock.exists()
        finally:
            building.kill()
    assert not FileBaton(str(lock)).try_acquire()
    assert recover_locks(tmp_path) == [lock]
    assert FileBaton(str(lock)).try_acquire()


def test_a_folder_that_is_not_there_is_made(tmp_path: Path) -> None:
    assert recover_locks(tmp_path / "new") == []
    assert (tmp_path / "new").is_dir()
