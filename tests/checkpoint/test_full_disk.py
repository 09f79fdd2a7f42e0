"""A disk that fills up: every rank ends with the path, the bytes needed and those free, and the last one is whole."""

import ctypes
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from pretrain.checkpoint import Retention, Saver, find_checkpoint, load_checkpoint
from pretrain.checkpoint.disk import naming, write_file
from pretrain.errors import PretrainError
from pretrain.faults.small import CUT, WHOLE, contents, make_optimizer, state_at
from pretrain.faults.system_calls import before_each, path_of
from pretrain.optim import LambOptions, ShardedOptimizer
from pretrain.sharding import ParameterInfo, Shard, ShardLayout, Slice
from tests.checkpoint.saved import save
from tests.worlds import run_ranks

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


def test_free_is_what_there_was_for_the_file(small_disk: Path) -> None:
    path = small_disk / "file"
    told = rf"{path}: No space left on device; {2 * MEGABYTE:,} bytes needed, {MEGABYTE:,} free"
    with pytest.raises(PretrainError, match=told), naming(path, 2 * MEGABYTE):
        write_file(path, [memoryview(bytes(2 * MEGABYTE))])


NUMEL = 30_000
MEGABYTE = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", path], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("this machine lets nobody mount a tmpfs")
    yield path
    # Lazily: a rank that was killed may still be there for a moment.
    ctypes.CDLL(None, use_errno=True).umount2(os.fsencode(path), 2)


def half_optimizer(rank: int) -> ShardedOptimizer:
    """One half of a parameter: a file of 360 kB."""
    optimizer = ShardedOptimizer(
        [torch.nn.Parameter(torch.zeros(1))], LambOptions(), weight_decay=0.0, max_grad_norm=0.0
    )
    piece = Slice(0, rank * NUMEL, 0, NUMEL)
    optimizer.bind(
        ShardLayout((ParameterInfo("a", (2 * NUMEL,)),), (Shard(torch.full((NUMEL,), 1.0 + rank), (piece,)),))
    )
    return optimizer


def save_on_two_ranks(disk: Path, filler: int) -> tuple[str, list[str]]:
    """On a rank: a good save, then one that has not enough room, of which nobody knew when it began."""
    rank = dist.get_rank()
    saver = Saver(disk, half_optimizer(rank), Retention(3), rank)
    saver.begin(state_at(5))
    saver.finish()
    dist.barrier()
    found = os.statvfs(disk)
    roomy = os.statvfs_result([found[0], found[1], 1 << 20, 1 << 20, 1 << 20, *found[5:]])
    honest = os.statvfs
    try:
        os.statvfs = lambda path: roomy
        saver.begin(state_at(10))
        os.statvfs = honest
        saver.finish()
    except PretrainError as error:
        dist.barrier()
        return str(error), sorted(path.name for path in disk.iterdir())
    finally:
        os.statvfs = honest
    return "", []


@pytest.mark.slow
def test_two_ranks_on_a_disk_that_is_really_full(small_disk: Path) -> None:
    """720 of 1,024 kB are taken: neither rank's next file fits beside the other's."""
    ends = run_ranks(save_on_two_ranks, 2, small_disk, 0, timeout=60.0)
    (sentence, left), (other, _) = ends
    assert sentence == other
    assert "rank-0000" in sentence and "No space left on device" in sentence
    assert " bytes needed, " in sentence
    assert left == ["latest", "step-00000005"]
    assert os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize > MEGABYTE // 5
