"""Many arrays in the main memory, block by block, over as many threads as torch has.

What is done to a block is one compiled loop, so that memory is walked once, however many operations that is. One call
from Python walks a turn of several blocks, short arrays and long ones alike. The blocks are cut from the start of each
array and are of one size: how many threads there are, and which of them takes which turn, shows in no result.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch

from pretrain.compiled import array_at, compiled, compiled_sum

CPU = torch.device("cpu")
BLOCK_NUMEL = 1 << 17
# Whole ones, or shorter ones of as many elements: with more the last turn is waited for longer, with fewer Python is
# asked more often.
BLOCKS_PER_TURN = 2


@dataclass(frozen=True, eq=False)
class Blocks:
    """Blocks of 1-D arrays, the same for all arrays of these sizes.

    `table`, int64 [blocks, 3]: index of the array, the block's first element in it, and the one behind its last.
    """

    table: np.ndarray
    num_arrays: int

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def numel(self) -> int:
        return int((self.table[:, 2] - self.table[:, 1]).sum())

    @cached_property
    def turns(self) -> list[tuple[int, int]]:
        """The blocks by range (first, last excluded), with about as many elements in each."""
        sizes = self.table[:, 2] - self.table[:, 1]
        turn = (np.cumsum(sizes) - sizes) // (BLOCKS_PER_TURN * BLOCK_NUMEL)
        bounds = [0, *(np.flatnonzero(np.diff(turn)) + 1).tolist(), len(self)]
        return [(first, last) for first, last in pairwise(bounds) if first < last]

    def sums_by_array(self, per_block: np.ndarray) -> np.ndarray:
        """float64 [num_arrays]: `per_block` [blocks], added in the order of the blocks."""
        return np.bincount(self.table[:, 0], weights=per_block, minlength=self.num_arrays)


def cut(sizes: Sequence[int]) -> Blocks:
    """The blocks of arrays of these sizes, in order; an empty array has none."""
    rows = [
        (index, first, min(first + BLOCK_NUMEL, size))
        for index, size in enumerate(sizes)
        for first in range(0, size, BLOCK_NUMEL)
    ]
    return Blocks(np.array(rows, dtype=np.int64).reshape(-1, 3), len(sizes))


def for_each(blocks: Blocks, work: Callable[[int, int], None]) -> None:
    """Calls `work` with ranges of blocks, in no certain order, until all were in one; raises what a call raises."""
    threads = min(torch.get_num_threads(), 1 + blocks.numel // BLOCK_NUMEL)
    waiting = iter(blocks.turns)

    def take_turns() -> None:
        for first, last in waiting:
            work(first, last)

    if threads == 1:
        take_turns()
        return
    with ThreadPoolExecutor(threads - 1) as pool:
        others = [pool.submit(take_turns) for _ in range(threads - 1)]
        take_turns()
    for other in others:
        other.result()


def addresses(
    tensors: Sequence[torch.Tensor],
    numels: Sequence[int],
    dtype: torch.dtype,
    device: torch.device = CPU,
) -> np.ndarray:
    """int64 [tensors]: where each begins in a device's memory, for loops over that many elements of `dtype` from there.

    Raises RuntimeError where no such elements lie.
    """
    for tensor, numel in zip(tensors, numels, strict=True):
        is_there = tensor.device == device and tensor.dtype == dtype
        if not is_there or not tensor.is_contiguous() or tensor.numel() < numel:
            raise RuntimeError(
                f"A loop over memory needs {numel} elements of {dtype} on {device}, one after the other, "
                f"and got {tensor.numel()} of {tensor.dtype} on {tensor.device} with strides {tensor.stride()}: "
                "give it contiguous tensors."
            )
    return np.array([tensor.data_ptr() for tensor in tensors], dtype=np.int64)


def numpy_dtype(dtype: torch.dtype) -> np.dtype:
    return torch.empty(0, dtype=dtype).numpy().dtype


def squared_norms(starts: np.ndarray, cut: Blocks, dtype: torch.dtype) -> np.ndarray:
    """The squared L2 norms of arrays of one dtype at `starts`, summed in float64; float64 [arrays]."""
    sums, like = np.zeros(len(cut)), np.empty(0, numpy_dtype(dtype))
    for_each(cut, lambda first, last: _sums_of_squares(cut.table[first:last], starts, like, sums[first:last]))
    return cut.sums_by_array(sums)


@compiled
def _sums_of_squares(table: np.ndarray, starts: np.ndarray, like: np.ndarray, sums: np.ndarray) -> None:
    for number in range(len(table)):
        index, first, last = table[number]
        sums[number] = _sum_of_squares(array_at(starts[index], first, last, like))


@compiled_sum
def _sum_of_squares(values: np.ndarray) -> float:
    """In float64, of a 1-D array of floats.

    By quarters, side by side: a processor fetches ahead for each place that is read, and one alone leaves it waiting.
    """
    quarter = values.size // 4
    total = 0.0
    for i in range(quarter):
        first, second = np.float64(values[i]), np.float64(values[quarter + i])
        third, fourth = np.float64(values[2 * quarter + i]), np.float64(values[3 * quarter + i])
        total += first * first + second * second + third * third + fourth * fourth
    for i in range(4 * quarter, values.size):
        last = np.float64(values[i])
        total += last * last
    return total
