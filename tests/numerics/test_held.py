"""What a rank holds before its first step, by tensors that are alive: its own weights and moments, no whole ones."""

import gc
from pathlib import Path

import torch

from pretrain.data.store import TokenStore
from tests.numerics.cells import Cell
from tests.numerics.courses import enter, make_backend
from tests.worlds import run_ranks

RANKS = 2
CELLS = [Cell("fsdp", stage, RANKS) for stage in range(4)]
_FP32, _MOMENTS = 4, 2
_TENSORS = (torch.Tensor, torch.nn.Parameter)


def held_bytes(folder: Path) -> list[tuple[int, int]]:
    """On a rank, by cell: bytes of all tensors since there was none of the engine's, and of the weights it has."""
    enter()
    store, found = TokenStore.open(folder / "store"), []
    for cell in CELLS:
        before = _storages()
        backend = make_backend(cell, store, folder)
        alive = sum(size for place, size in _storages().items() if place not in before)
        weights = sum(shard.tensor.numel() for shard in backend.layout.shards)
        alive -= sum(buffer.nbytes for buffer in backend.model.buffers())
        found.append((alive, _FP32 * weights))
        del backend
    return found


def _storages() -> dict[int, int]:
    """Bytes by address."""
    gc.collect()
    storages = [each.untyped_storage() for each in gc.get_objects() if type(each) in _TENSORS]
    return {storage.data_ptr(): storage.nbytes() for storage in storages if storage.nbytes()}


def test_a_rank_holds_its_weights_and_moments_once(course_folder: Path) -> None:
    """What engines align and keep beside is little."""
    for found in run_ranks(held_bytes, RANKS, course_folder):
        for cell, (alive, weights) in zip(CELLS, found, strict=True):
            expected = (1 + _MOMENTS) * weights
            assert 0.95 * expected < alive < 1.1 * expected, str(cell)
