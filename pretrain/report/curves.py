"""Curves of any number of steps as a bounded number of points.

1. consecutive lines go into buckets of equal counts, so many that there are at most `points` of them;
2. a bucket keeps the lowest, the highest and the median of its finite values, and whether any value was not finite;
3. for a noisy curve a median over neighbouring buckets runs in front;
4. what is said in words of the first and the last step is kept as it stands in their lines.

A bucket of one line is the line itself, so a run of no more lines than points loses nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite, nan
from typing import Any

import numpy as np

# Of a noisy curve: the running median is over so many of its buckets.
WINDOW_SHARE = 1 / 25
MIN_WINDOW = 5
MAX_VALUE = 1e100
X_KINDS = ("step", "tokens", "seconds")

Place = tuple[int, float]
NOWHERE: Place = (-1, nan)


@dataclass(frozen=True)
class Curve:
    """Points, [n] each in float64. `x`: by kind, where the bucket ends; `first`: its first step. NaN where a bucket has
    no finite value; `missing`: it had one that was not finite. `begin`, `end`: step and value of the first and the last
    line that has a finite one; a step of -1 where none has."""

    x: Mapping[str, np.ndarray]
    first: np.ndarray
    low: np.ndarray
    middle: np.ndarray
    high: np.ndarray
    missing: np.ndarray
    begin: Place
    end: Place

    def __len__(self) -> int:
        return len(self.first)

    @property
    def is_exact(self) -> bool:
        """Whether each point is one line of the file."""
        return bool(np.array_equal(self.low, self.high, equal_nan=True))

    def front(self) -> np.ndarray:
        """Median of the medians of the neighbouring buckets, [n]; shorter at the ends, NaN where a bucket has none."""
        half = max(MIN_WINDOW, round(len(self) * WINDOW_SHARE)) // 2
        smooth = np.full(len(self), nan)
        for index in np.flatnonzero(np.isfinite(self.middle)).tolist():
            near = self.middle[max(0, index - half) : index + half + 1]
            smooth[index] = np.median(near[np.isfinite(near)])
        return smooth

    def only(self, keep: np.ndarray) -> "Curve":
        """The points that `keep` names, [n] of bool."""
        x = {kind: values[keep] for kind, values in self.x.items()}
        return replace(
            self,
            x=x,
            first=self.first[keep],
            low=self.low[keep],
            middle=self.middle[keep],
            high=self.high[keep],
            missing=self.missing[keep],
        )


class Buckets:
    """Takes lines one after the other; memory is one bucket and the points so far."""

    def __init__(self, columns: Sequence[str], lines: int, points: int) -> None:
        self._per_bucket = max(1, -(-lines // points))
        self._values: dict[str, list[float]] = {name: [] for name in columns}
        self._missing = dict.fromkeys(columns, False)
        self._begins: dict[str, Place] = {}
        self._ends: dict[str, Place] = {}
        self._first: float = nan
        self._place: dict[str, float] = {}
        self._count = 0
        self._rows: list[dict[str, Any]] = []

    def add(self, place: Mapping[str, float], line: Mapping[str, Any]) -> None:
        """A line at `place` (by kind of x); a column that is there and no finite number is missing."""
        if not self._count:
            self._first = place["step"]
        self._place, self._count = dict(place), self._count + 1
        for name, values in self._values.items():
            if name in line:
                value = number(line[name])
                if isfinite(value):
                    values.append(value)
                    self._ends[name] = (int(place["step"]), value)
                    self._begins.setdefault(name, self._ends[name])
                else:
                    self._missing[name] = True
        if self._count == self._per_bucket:
            self._close()

    def curves(self) -> dict[str, Curve]:
        """All columns that had any value. Buckets without one are gaps only where something was not finite."""
        if self._count:
            self._close()
        x = {kind: np.array([row["place"].get(kind, nan) for row in self._rows]) for kind in X_KINDS}
        first = np.array([row["first"] for row in self._rows])
        found = {}
        for name in self._values:
            low, middle, high, missing = (np.array([row[name][i] for row in self._rows]) for i in range(4))
            ends = self._begins.get(name, NOWHERE), self._ends.get(name, NOWHERE)
            curve = Curve(x, first, low, middle, high, missing.astype(bool), *ends)
            keep = np.isfinite(middle) | curve.missing if len(middle) else np.zeros(0, bool)
            if keep.any():
                found[name] = curve.only(keep)
        return found

    def _close(self) -> None:
        row: dict[str, Any] = {"place": self._place, "first": self._first}
        for name, values in self._values.items():
            low, middle, high = (
                (min(values), float(np.median(values)), max(values)) if values else (nan, nan, nan)
            )
            row[name] = (low, middle, high, self._missing[name])
            values.clear()
            self._missing[name] = False
        self._rows.append(row)
        self._count = 0


def number(value: Any) -> float:
    """As a float; NaN for what is none, or too large to reckon with."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < MAX_VALUE:
        return nan
    return float(value)
