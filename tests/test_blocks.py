"""Blocks and what is summed over them: complete, the same for any number of threads, and in float64."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pretrain import blocks
from pretrain.blocks import BLOCK_NUMEL, Block


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_blocks_cover_every_element_once() -> None:
    sizes = (0, 1, BLOCK_NUMEL, BLOCK_NUMEL + 1, 0)
    found = blocks.cut([np.empty(size, np.float32) for size in sizes])
    assert found == [
        Block(0, 1, 0, 1),
        Block(1, 2, 0, BLOCK_NUMEL),
        Block(2, 3, 0, BLOCK_NUMEL),
        Block(3, 3, BLOCK_NUMEL, BLOCK_NUMEL + 1),
    ]


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.usefixtures("threads")
def test_every_block_is_taken_once_by_torchs_threads(count: int) -> None:
    torch.set_num_threads(count)
    cut = blocks.cut([np.empty(20 * BLOCK_NUMEL, np.float32)])
    taken: list[int] = []
    together = threading.Barrier(count)

    def work(block: Block) -> None:
        if block.number < count:
            together.wait(timeout=60)  # nobody goes on before `count` threads are here
        taken.append(block.number)

    blocks.for_each(cut, work)
    assert sorted(taken) == list(range(20))


@pytest.mark.usefixtures("threads")
def test_what_a_thread_raises_is_raised() -> None:
    torch.set_num_threads(3)
    caller = threading.get_ident()
    together = threading.Barrier(3)

    def work(block: Block) -> None:
        together.wait(timeout=60)
        if threading.get_ident() != caller:
            raise OSError("in a thread")

    with pytest.raises(OSError, match="in a thread"):
        blocks.for_each(blocks.cut([np.empty(3 * BLOCK_NUMEL, np.float32)]), work)


@pytest.mark.usefixtures("threads")
def test_squared_norms_in_every_bit_for_any_number_of_threads() -> None:
    generator = torch.Generator().manual_seed(3)
    pieces = [torch.randn(size, generator=generator) for size in (3 * BLOCK_NUMEL + 5, 7, 0)]
    expected = [float(piece.double().square().sum()) for piece in pieces]
    found = []
    for count in (1, 3):
        torch.set_num_threads(count)
        found.append(blocks.squared_norms(pieces))
    assert found[0].tolist() == pytest.approx(expected, rel=1e-13)
    assert torch.equal(*found)
    assert blocks.squared_norms([]).shape == (0,)


def test_squares_that_float32_cannot_hold() -> None:
    """1e-30 squared is 0 in float32, and 1e30 squared infinite."""
    found = blocks.squared_norms([torch.full((4,), 1e-30), torch.full((4,), 1e30)])
    assert found.tolist() == pytest.approx([4e-60, 4e60], rel=1e-6)
