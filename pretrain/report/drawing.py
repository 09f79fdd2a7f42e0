"""Charts as SVG paths in a box of fixed units, stretched by the page to any width.

The horizontal axis may count steps, tokens or seconds, so every path is there three times and the page shows one. The
page's text lies beside the box, in HTML, and keeps its size on every screen.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from pretrain.report.axes import Axis, axis_of, linear_axis, log_axis
from pretrain.report.charts import LOG_FROM_RATIO, Chart, Series
from pretrain.report.curves import X_KINDS, Curve

WIDTH, HEIGHT = 1000, 400
_MARK = 22
_MOST_MARKED = 60  # points of a line that are marked as such
# What is drawn stays in the box or so near to it that the numbers stay short.
_OUTSIDE = 0.5
# Raw points of a noisy curve beyond these shares may lie outside of the box.
_RAW_SHARES = (0.01, 0.99)


@dataclass(frozen=True)
class Line:
    """Of one run, by kind of x, path data: of the faint part (an area or dots), of the points of a short line, of the
    line, of the level, and of marks at the upper edge where something was not finite."""

    run: int
    area: Mapping[str, str]
    dots: Mapping[str, str]
    points: Mapping[str, str]
    front: Mapping[str, str]
    level: Mapping[str, str]
    missing: Mapping[str, str]


@dataclass(frozen=True)
class Drawing:
    """A chart with its axes; `data`: the numbers, for reading them off."""

    chart: Chart
    x: Mapping[str, Axis]
    y: Axis
    lines: Sequence[Line]
    data: Mapping[str, Any]


def drawn(chart: Chart, ends: Mapping[str, float]) -> Drawing:
    """`ends`: how far the horizontal axes go, by kind."""
    x = {kind: axis_of(kind, 0.0, ends[kind]) for kind in X_KINDS}
    y = _vertical(chart)
    lines = [_line(chart, series, x, y) for series in chart.series]
    data = {
        "low": y.low,
        "high": y.high,
        "log": y.is_log,
        "series": [_data(chart, each) for each in chart.series],
    }
    return Drawing(chart, x, y, lines, data)


def ends_of(charts: Sequence[Chart]) -> dict[str, float]:
    """The largest x of all charts, by kind, so that all have the same axes."""
    found = {}
    for kind in X_KINDS:
        values = [each.curve.x[kind] for chart in charts for each in chart.series]
        every = np.concatenate([*values, np.zeros(1)])
        found[kind] = float(np.max(every[np.isfinite(every)])) or 1.0
    return found


def _vertical(chart: Chart) -> Axis:
    """All of the lines, nearly all of the raw points."""
    parts: list[np.ndarray] = []
    for series in chart.series:
        curve = series.curve
        parts += [series.front, *([] if series.level is None else [series.level.middle])]
        raw = np.r_[curve.low, curve.high]
        raw = raw[np.isfinite(raw)]
        if len(raw):
            parts.append(np.quantile(raw, _RAW_SHARES) if chart.kind.noisy else raw)
    values = np.concatenate(parts)
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if chart.kind.may_be_log and low > 0 and high / low >= LOG_FROM_RATIO:
        return log_axis(low, high)
    return linear_axis(min(low, 0.0) if chart.kind.from_zero else low, high)


def _line(chart: Chart, series: Series, x: Mapping[str, Axis], y: Axis) -> Line:
    curve = series.curve
    parts: dict[str, tuple[str, ...]] = {}
    for kind in X_KINDS:
        across = _pixels(x[kind].share(curve.x[kind]), WIDTH)
        shown = chart.kind.noisy or not curve.is_exact
        area = shown and not curve.is_exact
        level = series.level
        parts[kind] = (
            _area(across, _up(y, curve.low), _up(y, curve.high)) if area else "",
            _dots(across, _up(y, curve.middle)) if shown and not area else "",
            _dots(across, _up(y, series.front)) if len(curve) <= _MOST_MARKED and not shown else "",
            _path(across, _up(y, series.front)),
            "" if level is None else _level(level, x[kind], y, kind),
            "".join(f"M{each:.0f} 0v{_MARK}" for each in across[curve.missing] if isfinite(each)),
        )
    columns = [{kind: parts[kind][index] for kind in X_KINDS} for index in range(6)]
    return Line(series.run, *columns)


def _level(level: Curve, x: Axis, y: Axis, kind: str) -> str:
    """From edge to edge where it is one value, else as a line."""
    values = level.middle[np.isfinite(level.middle)]
    if len(values) and values.min() == values.max():
        up = _up(y, values[:1])[0]
        return f"M0 {up:.0f}H{WIDTH}" if isfinite(up) else ""
    return _path(_pixels(x.share(level.x[kind]), WIDTH), _up(y, level.middle))


def _up(y: Axis, values: np.ndarray) -> np.ndarray:
    """From the top of the box, as SVG counts."""
    return HEIGHT - _pixels(y.share(values), HEIGHT)


def _pixels(share: np.ndarray, size: int) -> np.ndarray:
    return np.round(np.clip(share, -_OUTSIDE, 1 + _OUTSIDE) * size)


def _path(across: np.ndarray, up: np.ndarray) -> str:
    """A line with a gap where a value is not finite; a point by itself is a dot."""
    return "".join(_relative(across[run], up[run]) for run in _runs(across, up))


def _area(across: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    parts = []
    for run in _runs(across, low + high):
        there, back = across[run], across[run][::-1]
        parts.append(_relative(np.r_[there, back], np.r_[high[run], low[run][::-1]]) + "z")
    return "".join(parts)


def _dots(across: np.ndarray, up: np.ndarray) -> str:
    good = np.isfinite(across) & np.isfinite(up)
    points = zip(across[good].astype(int).tolist(), up[good].astype(int).tolist(), strict=True)
    return "".join(f"M{x} {y}h0" for x, y in points)


def _relative(across: np.ndarray, up: np.ndarray) -> str:
    """A path by differences, which are short."""
    xs, ys = across.astype(int), up.astype(int)
    start = f"M{xs[0]} {ys[0]}"
    if len(xs) == 1:
        return start + "h0"
    steps = zip(np.diff(xs).tolist(), np.diff(ys).tolist(), strict=True)
    return start + "l" + " ".join(f"{x} {y}" for x, y in steps)


def _runs(across: np.ndarray, up: np.ndarray) -> Iterator[slice]:
    """Stretches of finite points."""
    good = np.r_[False, np.isfinite(across) & np.isfinite(up), False]
    edges = np.flatnonzero(np.diff(good.astype(int)))
    yield from (slice(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True))


def _data(chart: Chart, series: Series) -> dict[str, Any]:
    """In as few digits as are read. `x` ends each point, which begins after `first`."""
    curve = series.curve
    found: dict[str, Any] = {
        "run": series.run,
        "x": {kind: [_digits(value, 7) for value in curve.x[kind].tolist()] for kind in X_KINDS},
        "front": [_digits(value) for value in series.front.tolist()],
    }
    if chart.kind.noisy or not curve.is_exact:
        found["low"] = [_digits(value) for value in curve.low.tolist()]
    if not curve.is_exact:
        found["first"] = [int(value) for value in curve.first.tolist()]
        found["high"] = [_digits(value) for value in curve.high.tolist()]
    return found


def _digits(value: float, digits: int = 4) -> float | int | None:
    if not isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    return int(short) if short == round(short) and abs(short) < 1e15 else short
