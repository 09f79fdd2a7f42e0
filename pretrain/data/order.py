"""Where a run stands in the endless stream of rows, and the order of an epoch's blocks.

The stream is cut in two levels: an epoch is a keyed permutation of the store's blocks, and a window is a few
consecutive blocks in that order. A position is therefore three integers, and the permutation is a function
that is evaluated where it is needed: no list of the corpus is ever made.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from pretrain.errors import DataError
from pretrain.rng import hash64, key

_ROUNDS = 6
# A narrow network prefers some permutations (seen at 4 bits); below this size all draws are sorted instead.
_MIN_FEISTEL_SIZE = 1 << 12


@dataclass(frozen=True, order=True)
class Cursor:
    """The row of the stream that comes next: `row` counts the packed rows of the window."""

    epoch: int
    window: int
    row: int

    def as_list(self) -> list[int]:
        """For JSON."""
        return [self.epoch, self.window, self.row]

    @classmethod
    def from_list(cls, values: list[int]) -> Self:
        """Raises DataError unless `values` are three non-negative integers."""
        if len(values) != 3 or any(type(value) is not int or value < 0 for value in values):
            raise DataError(
                f"A data cursor is three non-negative integers (epoch, window, row), not {values}: "
                "take it unchanged from a checkpoint or from metrics.jsonl."
            )
        return cls(*values)


def source_of(epoch: int, window: int, num_windows: int, static_epochs: int, seed: int) -> tuple[int, int]:
    """(epoch, window) by whose keys a window of the stream is made: itself, unless samples are static.

    With `static_epochs` N, the windows of each epoch from the N-th on are those of epoch `epoch % N`, in an order
    of their own; the first N epochs are as they are without.
    """
    if static_epochs == 0 or epoch < static_epochs:
        return epoch, window
    order = permute(np.array([window]), num_windows, key(seed, "windows", epoch))
    return epoch % static_epochs, int(order[0])


def permute(positions: np.ndarray, size: int, draw_key: int) -> np.ndarray:
    """int64 images of `positions` under a bijection on range(size) chosen by `draw_key`.

    A balanced Feistel network over the next even number of bits, whose images outside the range are fed back
    until they fall inside (cycle walking: Black, Rogaway 2002). It holds only the positions asked for. A
    small range is put in the order of one draw each.
    """
    values = np.array(positions, dtype=np.uint64)
    if values.size and int(values.max()) >= size:
        raise ValueError(f"positions must lie in range({size}), got {int(values.max())}")
    if size < _MIN_FEISTEL_SIZE:
        return np.argsort(hash64(draw_key, np.arange(size)), kind="stable")[values.astype(np.int64)]
    half_bits = ((size - 1).bit_length() + 1) // 2
    outside = np.arange(values.size)
    while outside.size:
        values[outside] = _feistel(values[outside], half_bits, draw_key)
        outside = outside[values[outside] >= size]
    return values.astype(np.int64)


def _feistel(values: np.ndarray, half_bits: int, draw_key: int) -> np.ndarray:
    """A bijection on range(4 ** half_bits), uint64 to uint64; the round function is one keyed draw."""
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    for round_number in range(_ROUNDS):
        draws = hash64(draw_key, right | np.uint64(round_number << half_bits))
        left, right = right, left ^ (draws & mask)
    return (left << shift) | right
