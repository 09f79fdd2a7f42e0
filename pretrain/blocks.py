"""Long arrays in the main memory, block by block, over as many threads as torch has.

What is done to a block is one compiled loop, so that memory is walked once, however many operations that is. The
blocks are cut from the start of each array and are of one size: how many threads there are, and which of them takes
which block, shows in no result.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from pretrain.compiled import compiled_sum

BLOCK_NUMEL = 1 << 17


class Block(NamedTuple):
    """Elements `first` .. `last` of the array with index `array`; `number` counts all blocks."""

    number: int
    array: int
    first: int
    last: int


def arrays_of(tensors: Sequence[torch.Tensor]) -> list[np.ndarray]:
    """The same memory, of tensors on the CPU."""
    return [tensor.detach().numpy() for tensor in tensors]


def cut(arrays: Sequence[np.ndarray]) -> list[Block]:
    """The blocks of 1-D arrays, in order; an empty array has none."""
    ranges = (
        (index, first, min(first + BLOCK_NUMEL, array.size))
        for index, array in enumerate(arrays)
        for first in range(0, array.size, BLOCK_NUMEL)
    )
    return [Block(number, *each) for number, each in enumerate(ranges)]


def for_each(blocks: Sequence[Block], work: Callable[[Block], None]) -> None:
    """Calls `work` for every block, in no certain order; raises what a call raises."""
    numel = sum(block.last - block.first for block in blocks)
    threads = min(torch.get_num_threads(), 1 + numel // BLOCK_NUMEL)
    waiting = iter(blocks)

    def take_turns() -> None:
        for block in waiting:
            work(block)

    if threads == 1:
        take_turns()
        return
    with ThreadPoolExecutor(threads - 1) as pool:
        others = [pool.submit(take_turns) for _ in range(threads - 1)]
        take_turns()
    for other in others:
        other.result()


def sums_by_array(blocks: Sequence[Block], per_block: np.ndarray, num_arrays: int) -> np.ndarray:
    """float64 [num_arrays]: `per_block` [blocks], added in the order of the blocks."""
    owners = np.array([block.array for block in blocks], dtype=np.intp)
    return np.bincount(owners, weights=per_block, minlength=num_arrays)


def squared_norms(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The squared L2 norm of each 1-D tensor on the CPU, summed in float64; float64 [tensors]."""
    arrays = arrays_of(tensors)
    blocks = cut(arrays)
    sums = np.zeros(len(blocks))

    def work(block: Block) -> None:
        sums[block.number] = sum_of_squares(arrays[block.array][block.first : block.last])

    for_each(blocks, work)
    return torch.from_numpy(sums_by_array(blocks, sums, len(arrays)))


@compiled_sum
def sum_of_squares(values: np.ndarray) -> float:
    """In float64, of a 1-D array of floats."""
    total = 0.0
    for i in range(values.size):
        value = np.float64(values[i])
        total += value * value
    return total
