"""Axes with readable ticks, and numbers as people read them."""

from dataclasses import dataclass
from math import ceil, floor, isfinite, log10

import numpy as np

MAX_TICKS = 6
NOTHING = "-"  # where a table has no value
_TIMES = ((86_400.0, "d", 172_800.0), (3600.0, "h", 7200.0), (60.0, "min", 240.0), (1.0, "s", 0.0))
_LARGE = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`; `ticks` are (share of the way, label), `unit` what the labels count."""

    low: float
    high: float
    is_log: bool
    ticks: tuple[tuple[float, str], ...]
    unit: str = ""

    def share(self, values: np.ndarray) -> np.ndarray:
        """Of the way from low to high, [n]; outside of [0, 1] where a value lies outside; NaN stays."""
        if self.is_log:
            with np.errstate(divide="ignore", invalid="ignore"):
                return (np.log10(values) - log10(self.low)) / (log10(self.high) - log10(self.low))
        return (values - self.low) / (self.high - self.low)


def linear_axis(low: float, high: float, divisor: float = 1.0, unit: str = "") -> Axis:
    """Ends at multiples of the tick, which is 1, 2 or 5 times a power of ten; labels are values over `divisor`."""
    low, high = low / divisor, high / divisor
    if not high > low:
        room = abs(low) * 0.1 or 1.0
        low, high = low - room, high + room
    tick = _tick((high - low) / (MAX_TICKS - 1))
    first, last = floor(low / tick + 1e-9), ceil(high / tick - 1e-9)
    values = [index * tick for index in range(first, last + 1)]
    width = (last - first) * tick
    ticks = tuple(((each - values[0]) / width, _label(each, tick)) for each in values)
    return Axis(values[0] * divisor, values[-1] * divisor, False, ticks, unit)


def tight_axis(low: float, high: float, divisor: float = 1.0, unit: str = "") -> Axis:
    """The same from `low` to `high` exactly: for the horizontal."""
    wide = linear_axis(low, high, divisor, unit)
    if not high > low:
        return wide
    values = [(wide.low + share * (wide.high - wide.low), label) for share, label in wide.ticks]
    room = (high - low) * 1e-9
    ticks = [
        ((value - low) / (high - low), label) for value, label in values if low - room <= value <= high + room
    ]
    return Axis(low, high, False, tuple(ticks), unit)


def log_axis(low: float, high: float) -> Axis:
    """Ticks at powers of ten, and at 2 and 5 times them where there are few; `low` is positive."""
    first, last = floor(log10(low)), ceil(log10(high))
    steps = (1,) if last - first > 3 else (1, 2, 5)
    every = max(1, ceil((last - first) / MAX_TICKS))
    marks = [factor * 10.0**power for power in range(first, last + 1, every) for factor in steps]
    bottom = max((mark for mark in marks if mark <= low), default=low)
    top = min((mark for mark in marks if mark >= high), default=high)
    axis = Axis(bottom, top if top > bottom else bottom * 10, True, ())
    inside = [mark for mark in marks if bottom <= mark <= axis.high]
    ticks = tuple((float(axis.share(np.array(mark))), short(mark)) for mark in inside)
    return Axis(axis.low, axis.high, True, ticks)


def axis_of(kind: str, low: float, high: float) -> Axis:
    """The horizontal axis: steps, tokens or seconds."""
    if kind != "seconds":
        return tight_axis(low, high, unit=kind + "s" * (kind == "step"))
    divisor, unit, _ = next(each for each in _TIMES if high >= each[2])
    return tight_axis(low, high, divisor, unit)


def _tick(width: float) -> float:
    power = 10.0 ** floor(log10(width))
    return float(next(factor * power for factor in (1, 2, 5, 10) if factor * power >= width * (1 - 1e-9)))


def _label(value: float, tick: float) -> str:
    if abs(value) < tick * 1e-6:
        return "0"
    if abs(value) >= 10_000:
        return short(value)
    if tick < 1e-4:
        return f"{value:.6g}"
    return f"{value:,.{max(0, -floor(log10(tick) + 1e-9))}f}"


def short(value: float) -> str:
    """Three or four digits and a letter: 1.5M, 0.002, 2e-06."""
    for size, letter in _LARGE:
        if abs(value) >= 10 * size or abs(value) >= size >= 1e6:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def figure(value: float | None, digits: int = 4) -> str:
    """A figure of a table: 1,234,567, 4.102, 0.0007143, 1.2e-06; a dash where there is none."""
    if value is None or not isfinite(value):
        return NOTHING
    if abs(value) >= 10 ** (digits - 1) or value == round(value):
        return f"{value:,.0f}" if abs(value) < 1e15 else f"{value:.4g}"
    return f"{value:.{digits}g}"


def duration(seconds: float) -> str:
    """As 2 d 03 h, 1 h 05 min, 4 min 10 s or 12.3 s."""
    if not isfinite(seconds):
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24:,} d {hours % 24:02d} h"
