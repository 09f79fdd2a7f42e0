"""The covering array covers, by counting; the matrix has every pair and every triple that its axes allow."""

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any

import pytest

from tests.numerics.cells import AXES, Cell, matrix, sample
from tests.numerics.covering import covering_array


def together(rows: Sequence[tuple[Any, ...]], strength: int) -> set[tuple[tuple[int, Any], ...]]:
    """Every `strength` values that some row has, each with the number of its axis."""
    return {
        tuple((axis, row[axis]) for axis in axes)
        for row in rows
        for axes in combinations(range(len(rows[0])), strength)
    }


def test_few_rows_hold_every_pair() -> None:
    """Three axes of two values have twelve pairs; four rows would do (the orthogonal array L4), eight are all."""
    found = covering_array({"a": (0, 1), "b": (0, 1), "c": (0, 1)}, 2)
    assert 4 <= len(found) <= 6 and len(together(found, 2)) == 12
    assert len(covering_array({"a": "xyz", "b": "uvw"}, 2)) == 9


def test_rows_to_begin_with_come_first_and_count() -> None:
    axes = {"a": (0, 1, 2), "b": (0, 1), "c": (0, 1), "d": (0, 1)}
    pairs = covering_array(axes, 2)
    triples = covering_array(axes, 3, begin_with=pairs)
    assert triples[: len(pairs)] == pairs
    assert together(triples, 3) == together(list(product(*axes.values())), 3)
    assert len(set(triples)) == len(triples) < 24


@pytest.mark.parametrize(("cells", "strength", "most"), [(sample(), 2, 24), (matrix(), 3, 75)])
def test_the_matrix_covers_its_axes(cells: list[Cell], strength: int, most: int) -> None:
    """Every pair in the sample that CI runs, every triple in full; nothing is typed by hand."""
    everything = list(product(*AXES.values()))
    rows = [cell.row for cell in cells]
    assert together(rows, strength) == together(everything, strength)
    assert len(set(rows)) == len(rows) <= most
    assert cells == (matrix() if strength == 3 else sample())
    assert matrix()[: len(sample())] == sample()


def test_every_cell_has_the_same_global_batch() -> None:
    for cell in matrix():
        assert cell.ranks * cell.accumulation * cell.micro_batch == 16
