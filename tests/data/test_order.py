"""The keyed permutation is a bijection, and no favourite among the permutations."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.data.order import Cursor, permute
from pretrain.errors import DataError


@given(size=st.integers(1, 100) | st.integers(4000, 20_000), draw_key=st.integers(0, 2**64 - 1))
def test_permute_is_a_bijection(size: int, draw_key: int) -> None:
    images = permute(np.arange(size), size, draw_key)
    assert sorted(images.tolist()) == list(range(size))


@given(
    size=st.integers(2, 2**40), draw_key=st.integers(0, 2**64 - 1), fractions=st.lists(st.floats(0, 0.999))
)
def test_an_image_does_not_depend_on_the_others_asked_for(
    size: int, draw_key: int, fractions: list[float]
) -> None:
    positions = np.array([int(fraction * size) for fraction in fractions], dtype=np.int64)
    together = permute(positions, size, draw_key)
    alone = [int(permute(np.array([position]), size, draw_key)[0]) for position in positions]
    assert together.tolist() == alone


def test_all_permutations_of_four_are_equally_likely() -> None:
    num_keys = 4800
    counts = Counter(tuple(permute(np.arange(4), 4, draw_key).tolist()) for draw_key in range(num_keys))
    expected = num_keys / 24
    chi_square = sum((counts[order] - expected) ** 2 / expected for order in counts)
    assert len(counts) == 24
    assert chi_square < 49.7  # 99.9% point for 23 degrees of freedom


def test_neighbours_of_a_large_range_are_torn_apart() -> None:
    size = 1_000_003
    images = permute(np.arange(10_000), size, 5)
    assert len(set(images.tolist())) == 10_000
    # The mean distance of two independent uniform draws is a third of the range.
    assert abs(np.abs(np.diff(images)).mean() / size - 1 / 3) < 0.01


def test_positions_outside_the_range_are_refused() -> None:
    with pytest.raises(ValueError, match="range"):
        permute(np.array([3]), 3, 1)


def test_cursor_goes_through_json() -> None:
    assert Cursor.from_list(Cursor(2, 3, 4).as_list()) == Cursor(2, 3, 4)


@pytest.mark.parametrize("values", [[], [1, 2], [1, 2, -3], [1, 2, 3.0], [True, 0, 0], [0, 0, 0, 0]])
def test_a_broken_cursor_is_refused(values: list[int]) -> None:
    with pytest.raises(DataError, match="three non-negative integers"):
        Cursor.from_list(values)
