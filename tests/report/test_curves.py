"""Curves of many steps: the buckets hold what a plain look at all values gives."""

import math
from itertools import pairwise

import numpy as np
import pytest

from pretrain.report.curves import Buckets, Curve, number


def curve_of(values: list[object], points: int) -> Curve:
    buckets = Buckets(["loss"], len(values), points)
    for step, value in enumerate(values, start=1):
        buckets.add({"step": step, "tokens": 10.0 * step, "seconds": 0.5 * step}, {"loss": value})
    return buckets.curves()["loss"]


@pytest.mark.parametrize(("count", "points"), [(7, 10), (10, 10), (11, 10), (1000, 30), (30, 7)])
def test_a_bucket_keeps_the_lowest_the_median_and_the_highest(count: int, points: int) -> None:
    values = np.random.default_rng(0).normal(size=count)
    curve = curve_of(values.tolist(), points)
    assert len(curve) <= points
    ends = [0, *curve.x["step"].astype(int).tolist()]
    assert ends[-1] == count
    for index, (start, end) in enumerate(pairwise(ends)):
        part = np.sort(values[start:end])
        middle = (part[(len(part) - 1) // 2] + part[len(part) // 2]) / 2
        assert (curve.low[index], curve.middle[index], curve.high[index]) == (part[0], middle, part[-1])
        assert curve.first[index] == start + 1
        assert (curve.x["tokens"][index], curve.x["seconds"][index]) == (10.0 * end, 0.5 * end)


@pytest.mark.parametrize(("count", "points"), [(399, 400), (400, 400), (401, 400), (7, 3), (1, 3)])
def test_a_curve_knows_its_first_and_last_line_as_they_stand(count: int, points: int) -> None:
    """Whatever bucket they are in; the last line, which never was one, is no reason for buckets of two."""
    values: list[object] = [float(step) for step in range(1, count + 1)]
    curve = curve_of(values, points)
    assert (curve.begin, curve.end) == ((1, 1.0), (count, float(count)))
    assert curve.is_exact == (count <= points)


def test_what_is_not_finite_is_neither_the_first_nor_the_last() -> None:
    curve = curve_of([None, 7.0, 5.0, math.inf], 2)
    assert (curve.begin, curve.end) == ((2, 7.0), (3, 5.0))


def test_what_is_not_finite_is_a_gap_and_is_marked() -> None:
    values: list[object] = [1.0, 2.0, None, math.inf, 10**400, "3", True, 5.0]
    curve = curve_of(values, 100)
    assert np.isnan(curve.middle).tolist() == [False, False, True, True, True, True, True, False]
    assert curve.missing.tolist() == np.isnan(curve.middle).tolist()
    wide = curve_of(values, 2)
    assert (wide.low.tolist(), wide.high.tolist(), wide.missing.tolist()) == ([1, 5], [2, 5], [True, True])


def test_a_figure_that_few_lines_have_is_joined() -> None:
    buckets = Buckets(["noise_scale"], 20, 20)
    for step in range(1, 21):
        buckets.add({"step": step}, {"noise_scale": step} if step % 5 == 0 else {})
    curve = buckets.curves()["noise_scale"]
    assert curve.x["step"].tolist() == [5, 10, 15, 20]
    assert not curve.missing.any()
    assert Buckets(["noise_scale"], 0, 20).curves() == {}


def test_the_running_median_follows_a_slope_and_passes_over_outliers_and_gaps() -> None:
    values: list[object] = [float(step) for step in range(200)]
    values[50], values[51], values[120] = 1e6, -1e6, None
    front = curve_of(values, 400).front()
    inside = np.arange(10, 190)
    inside = inside[inside != 120]
    assert np.abs(front[inside] - inside).max() <= 1.0
    assert np.isnan(front[120])


def test_numbers() -> None:
    assert number(3) == 3.0 and number(-0.5) == -0.5
    for value in (None, True, "1", [1], 1e300, -(10**200), math.nan, math.inf):
        assert math.isnan(number(value)), value
