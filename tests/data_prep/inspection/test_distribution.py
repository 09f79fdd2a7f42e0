"""Sparse counts against the lists they stand for."""

import numpy as np
import pytest

from data_prep.inspection.distribution import QUANTILES, Distribution

LENGTHS = np.random.default_rng(0).geometric(0.02, 1001)


def in_parts(lengths: np.ndarray) -> Distribution:
    total = Distribution.empty()
    for part in np.array_split(lengths, 7):
        total = total.plus(Distribution.of(part))
    return total


def test_parts_add_up_to_the_whole() -> None:
    values, counts = np.unique(LENGTHS, return_counts=True)
    total = in_parts(LENGTHS)
    assert (total.values.tolist(), total.counts.tolist()) == (values.tolist(), counts.tolist())
    assert total.total == 1001


def test_mean_and_quantiles_are_those_of_the_list() -> None:
    figures = in_parts(LENGTHS).figures()
    assert figures["mean"] == pytest.approx(LENGTHS.mean())
    expected = np.quantile(LENGTHS, QUANTILES, method="nearest")
    assert list(figures["quantiles"].values()) == expected.tolist()


def test_bins_are_powers_of_two_and_hold_everything() -> None:
    assert Distribution.of(np.array([1, 2, 3, 4, 5, 8, 9, 9])).bins() == [
        (1, 1, 1),
        (2, 2, 1),
        (3, 4, 2),
        (5, 8, 2),
        (9, 16, 2),
    ]
    assert Distribution.of(np.array([5, 40])).bins() == [(5, 8, 1), (9, 16, 0), (17, 32, 0), (33, 64, 1)]
    for least, most, count in in_parts(LENGTHS).bins():
        assert count == int(((least <= LENGTHS) & (most >= LENGTHS)).sum())
