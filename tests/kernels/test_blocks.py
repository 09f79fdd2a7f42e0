"""Blocks and what is summed over them: complete, the same for any number of threads, and in float64."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pretrain.kernels import blocks
from pretrain.kernels.blocks import BLOCK_NUMEL, BLOCKS_PER_TURN


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def squared_norms(tensors: list[torch.Tensor]) -> np.ndarray:
    sizes = [tensor.numel() for tensor in tensors]
    return blocks.squared_norms(
        blocks.addresses(tensors, sizes, torch.float32), blocks.cut(sizes), torch.float32
    )


def test_blocks_cover_every_element_once() -> None:
    sizes = (0, 1, BLOCK_NUMEL, BLOCK_NUMEL + 1, 0)
    found = blocks.cut(sizes)
    assert found.table.tolist() == [
        [1, 0, 1],
        [2, 0, BLOCK_NUMEL],
        [3, 0, BLOCK_NUMEL],
        [3, BLOCK_NUMEL, BLOCK_NUMEL + 1],
    ]
    assert found.numel == sum(sizes)
    assert found.sums_by_array(np.array([1.0, 2.0, 3.0, 4.0])).tolist() == [0.0, 1.0, 2.0, 7.0, 0.0]


def test_turns_are_of_about_one_size_whatever_the_arrays() -> None:
    """Every block in one of them, in order: one long array, and then many short ones."""
    found = blocks.cut([7 * BLOCK_NUMEL + 1, *[5] * 1000, *[BLOCK_NUMEL // 4] * 40])
    assert [number for turn in found.turns for number in range(*turn)] == list(range(len(found)))
    sizes = found.table[:, 2] - found.table[:, 1]
    numels = [int(sizes[slice(*turn)].sum()) for turn in found.turns]
    assert len(numels) == 9  # 17 BLOCK_NUMEL and a bit, two in each
    assert max(numels) < (BLOCKS_PER_TURN + 1) * BLOCK_NUMEL
    assert min(numels[:-1]) > (BLOCKS_PER_TURN - 1) * BLOCK_NUMEL
    assert blocks.cut([0, 0]).turns == blocks.cut([]).turns == []


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.usefixtures("threads")
def test_every_block_is_taken_once_by_torchs_threads(count: int) -> None:
    torch.set_num_threads(count)
    cut = blocks.cut([20 * BLOCKS_PER_TURN * BLOCK_NUMEL])
    taken: list[int] = []
    together = threading.Barrier(count)

    def work(first: int, last: int) -> None:
        if first < count * BLOCKS_PER_TURN:
            together.wait(timeout=60)  # nobody goes on before `count` threads are here
        taken.extend(range(first, last))

    blocks.for_each(cut, work)
    assert sorted(taken) == list(range(len(cut)))


@pytest.mark.usefixtures("threads")
def test_what_a_thread_raises_is_raised() -> None:
    torch.set_num_threads(3)
    caller = threading.get_ident()
    together = threading.Barrier(3)

    def work(first: int, last: int) -> None:
        together.wait(timeout=60)
        if threading.get_ident() != caller:
            raise OSError("in a thread")

    with pytest.raises(OSError, match="in a thread"):
        blocks.for_each(blocks.cut([3 * BLOCKS_PER_TURN * BLOCK_NUMEL]), work)


@pytest.mark.usefixtures("threads")
def test_squared_norms_in_every_bit_for_any_number_of_threads() -> None:
    generator = torch.Generator().manual_seed(3)
    pieces = [torch.randn(size, generator=generator) for size in (3 * BLOCK_NUMEL + 5, 7, 0)]
    expected = [float(piece.double().square().sum()) for piece in pieces]
    found = []
    for count in (1, 3):
        torch.set_num_threads(count)
        found.append(squared_norms(pieces))
    assert found[0].tolist() == pytest.approx(expected, rel=1e-13)
    assert found[0].tolist() == found[1].tolist()
    assert squared_norms([]).shape == (0,)


def test_squares_that_float32_cannot_hold() -> None:
    """1e-30 squared is 0 in float32, and 1e30 squared infinite."""
    found = squared_norms([torch.full((4,), 1e-30), torch.full((4,), 1e30)])
    assert found.tolist() == pytest.approx([4e-60, 4e60], rel=1e-6)


def test_memory_that_is_not_there_is_refused() -> None:
    fine = torch.zeros(4)
    assert blocks.addresses([fine, fine[1:]], [4, 3], torch.float32).tolist() == [
        fine.data_ptr(),
        fine.data_ptr() + 4,
    ]
    for bad in (fine[:3], torch.zeros(4).double(), torch.zeros(8)[::2], torch.zeros(4, device="meta")):
        with pytest.raises(RuntimeError, match="give it contiguous tensors"):
            blocks.addresses([fine, bad], [4, 4], torch.float32)
