"""Tables for a device's kernels: every element in one block, lines kept whole, nothing copied twice."""

import numpy as np
import pytest
import torch

from pretrain.kernels import device_table
from pretrain.kernels.device_table import DeviceTable

CPU = torch.device("cpu")


def table_of(numels: list[int], offsets: list[int], owners: list[int]) -> DeviceTable:
    made = [np.array(values, dtype=np.int64) for values in (numels, offsets, owners)]
    return DeviceTable(made[0], made[1], made[2], CPU)


def test_rows_and_runs_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 64; slice 1 begins at element 30, two before a line's end; 3 ends before one does; 2 is empty."""
    monkeypatch.setattr(device_table, "BLOCK_NUMEL", 64)
    table = table_of([65, 100, 0, 3, 5], [0, 30, 7, 1, 0], [4, 0, 2, 4, 1])
    assert table.rows.tolist() == [
        [1, 0, 2],
        [1, 2, 66],
        [1, 66, 100],
        [4, 0, 5],
        [0, 0, 64],
        [0, 64, 65],
        [3, 0, 3],
    ]
    assert table.runs.tolist() == [[0, 0, 3], [1, 3, 4], [4, 4, 7]]
    assert table.owners.tolist() == [4, 0, 2, 4, 1] and table.num_slices == 5


def test_every_element_is_in_one_block_that_begins_with_a_line() -> None:
    draw = np.random.default_rng(0)
    numels, offsets = draw.integers(0, 40_000, 50).tolist(), draw.integers(0, 200, 50).tolist()
    rows = table_of(numels, offsets, draw.integers(0, 9, 50).tolist()).rows.numpy()
    for index, (numel, offset) in enumerate(zip(numels, offsets, strict=True)):
        own = rows[rows[:, 0] == index]
        assert [*own[:, 1], numel] == [0, *own[:, 2]] if numel else len(own) == 0
        assert all((offset + first) % 32 == 0 for first in own[1:, 1])
        assert all(0 < last - first <= device_table.BLOCK_NUMEL for _, first, last in own)


def test_of_no_slices() -> None:
    table = table_of([], [], [])
    assert table.rows.shape == (0, 3) and table.runs.shape == (0, 3)


def test_addresses_are_copied_when_they_change() -> None:
    table = table_of([4], [0], [0])
    first = table.starts(np.array([5], dtype=np.int64))
    assert first.tolist() == [5] and table.starts(np.array([5], dtype=np.int64)) is first
    for other in range(100):  # of gradients that lie elsewhere each time
        assert table.starts(np.array([100 + other], dtype=np.int64)).tolist() == [100 + other]
        assert table.starts(np.array([5], dtype=np.int64)) is first
    assert len(table._kept) < 20
