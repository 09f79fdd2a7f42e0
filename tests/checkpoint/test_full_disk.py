"""A disk that fills up: the path, the bytes needed and those free are said, and the last checkpoint is whole.

At each file of a tmpfs, and under two ranks of a run, it is a row of the matrix of faults.
"""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.checkpoint import Retention, Saver, find_checkpoint, load_checkpoint
from pretrain.disk import naming, write_file
from pretrain.errors import PretrainError
from pretrain.faults.room import small_disk
from pretrain.faults.row import NotHere
from pretrain.faults.small import CUT, WHOLE, contents, make_optimizer, state_at
from pretrain.faults.system_calls import before_each, path_of
from tests.checkpoint.saved import save

FILES = ("rank-00000.safetensors", "rank-00000.json", "manifest.json", ".best.partial", ".latest.partial")


@pytest.mark.parametrize("name", FILES[:3] + FILES[4:])
def test_at_each_file(tmp_path: Path, one_rank: None, name: str) -> None:
    first = save(tmp_path, 5)
    saver = Saver(tmp_path, make_optimizer(*CUT, seed=1), Retention(3), 0)

    def fill(call: str, subject: Any) -> None:
        if call == "write" and path_of(subject).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with before_each(fill), pytest.raises(PretrainError) as error:
        saver.begin(state_at(10, 101))
        saver.finish()
    assert error.value.exit_code == 1
    where = tmp_path if name.startswith(".") else tmp_path / ".step-00000010.partial"
    told = rf"Checkpoint {tmp_path}/step-00000010 could not be written \(rank 0: {where}/"
    assert error.match(
        told + r".*: No space left on device; [\d,]+ bytes needed, [\d,]+ free\); the previous one"
    )
    newest = find_checkpoint(tmp_path)
    assert newest == first
    loads_as(newest, 0)
    # What was begun takes no room, and the next save is none the worse for it.
    assert not list(tmp_path.glob(".step-*"))
    saver.begin(state_at(10, 101))
    saver.finish()
    loads_as(tmp_path / "step-00000010", 1)


def loads_as(folder: Path | None, seed: int) -> None:
    assert folder is not None
    optimizer = make_optimizer(*WHOLE, seed=9)
    load_checkpoint(folder, optimizer, 0, 1)
    for name, values in contents(make_optimizer(*CUT, seed=seed)).items():
        assert torch.equal(contents(optimizer)[name], values)


def test_room_is_looked_for_before_anything_is_written(
    tmp_path: Path, one_rank: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 5)
    saver = Saver(tmp_path, make_optimizer(*CUT), Retention(3), 0)
    size = (tmp_path / "step-00000005" / "rank-00000.safetensors").stat().st_size
    found = os.statvfs(tmp_path)
    blocks = [*found]
    blocks[1], blocks[4] = 1, size - 1  # bytes of a block, free blocks
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(blocks))
    with pytest.raises(PretrainError, match=rf"{tmp_path}: {size:,} bytes needed, {size - 1:,} free"):
        saver.begin(state_at(10))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000005"]
    blocks[4] = size
    saver.begin(state_at(10))
    saver.finish()


MEGABYTE = 1 << 20


@pytest.fixture
def megabyte(tmp_path: Path) -> Iterator[Path]:
    """A file system of that size."""
    try:
        with small_disk(tmp_path / "disk", "1m") as disk:
            yield disk
    except NotHere as reason:
        pytest.skip(str(reason))


def test_free_is_what_there_was_for_the_file(megabyte: Path) -> None:
    path = megabyte / "file"
    told = rf"{path}: No space left on device; {2 * MEGABYTE:,} bytes needed, {MEGABYTE:,} free"
    with pytest.raises(PretrainError, match=told), naming(path, 2 * MEGABYTE):
        write_file(path, [memoryview(bytes(2 * MEGABYTE))])
