"""Axes end where people expect it, and numbers read as they are written by hand."""

import numpy as np
import pytest

from pretrain.report.axes import Axis, axis_of, duration, figure, linear_axis, log_axis, short


def labels(axis: Axis) -> list[str]:
    return [label for _, label in axis.ticks]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (4.1, 6.4, ["4.0", "4.5", "5.0", "5.5", "6.0", "6.5"]),
        (0.0, 0.01, ["0", "0.002", "0.004", "0.006", "0.008", "0.010"]),
        (0.0, 48_000.0, ["0", "10k", "20k", "30k", "40k", "50k"]),
        (0.0, 1.1e-5, ["0", "5e-06", "1e-05", "1.5e-05"]),
        (3.0, 3.0, ["2.6", "2.8", "3.0", "3.2", "3.4"]),
        (0.0, 0.0, ["-1.0", "-0.5", "0", "0.5", "1.0"]),
    ],
)
def test_linear_ticks(low: float, high: float, expected: list[str]) -> None:
    axis = linear_axis(low, high)
    assert labels(axis) == expected
    assert axis.low <= low and axis.high >= high
    shares = [share for share, _ in axis.ticks]
    assert shares[0] == 0.0 and shares[-1] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.02, 30.0, ["0.01", "0.1", "1", "10", "100"]),
        (3.0, 180.0, ["2", "5", "10", "20", "50", "100", "200"]),
        (1.0, 65536.0, ["1", "10", "100", "1000", "10k", "100k"]),
    ],
)
def test_log_ticks(low: float, high: float, expected: list[str]) -> None:
    axis = log_axis(low, high)
    assert labels(axis) == expected
    assert axis.share(
        np.array([axis.low, (axis.low * axis.high) ** 0.5, axis.high])
    ).tolist() == pytest.approx([0, 0.5, 1])


@pytest.mark.parametrize(
    ("kind", "high", "unit", "last"),
    [
        ("step", 300.0, "steps", "300"),
        ("step", 1_000_000.0, "steps", "1M"),
        ("tokens", 2.5e9, "tokens", "2.5B"),
        ("seconds", 100.0, "s", "100"),
        ("seconds", 600.0, "min", "10"),
        ("seconds", 36_000.0, "h", "10"),
        ("seconds", 864_000.0, "d", "10"),
    ],
)
def test_the_horizontal_ends_with_the_run(kind: str, high: float, unit: str, last: str) -> None:
    axis = axis_of(kind, 0.0, high)
    assert (axis.unit, labels(axis)[0], labels(axis)[-1]) == (unit, "0", last)
    assert (axis.low, axis.high) == (0.0, high)
    assert 3 <= len(axis.ticks) <= 8


def test_numbers_in_words() -> None:
    assert [short(value) for value in (0.5, 999, 9_999, 10_000, 1.5e6, 2e9)] == [
        "0.5",
        "999",
        "9999",
        "10k",
        "1.5M",
        "2B",
    ]
    assert [figure(value) for value in (1234567, 4.10249, 0.00071428, 1.2e-6, None, float("nan"))] == [
        *("1,234,567", "4.102", "0.0007143", "1.2e-06", "-", "-")
    ]
    assert [duration(value) for value in (12.34, 250, 3900, 200_000)] == [
        "12.3 s",
        "4 min 10 s",
        "1 h 05 min",
        "2 d 07 h",
    ]
