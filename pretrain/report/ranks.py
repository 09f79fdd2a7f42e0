"""ranks.jsonl, read once as a stream: how long ranks waited for data, and which one the others waited for."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite, nan
from typing import Any

import numpy as np

from pretrain.report.axes import NOTHING, figure
from pretrain.report.curves import Buckets, Curve, number
from pretrain.report.lines import count_lines, read_lines
from pretrain.report.training import MAX_STEP, Extremes, Training, place_at
from pretrain.run_folder import RunFolder

FIGURES = ("data_wait", "to_median")
MAX_RANKS = 1 << 20
MAX_HOSTS = 100_000
MAX_TEXT = 80


@dataclass
class Ranks:
    """`compared`: intervals of two ranks or more. `slowest`: by rank, in how many of them it was. `hosts`: (name,
    first rank, last rank) of the last start."""

    curves: Mapping[str, Curve] = field(default_factory=dict)
    extremes: dict[str, Extremes] = field(default_factory=dict)
    intervals: int = 0
    compared: int = 0
    last_step: int = 0
    slowest: Counter[int] = field(default_factory=Counter)
    own_seconds: dict[int, float] = field(default_factory=dict)  # of the slowest, when it last was
    hosts: list[tuple[str, int, int]] = field(default_factory=list)
    peak_bytes: float = nan
    damaged: int = 0

    def host_of(self, rank: int) -> str:
        return next((name for name, first, last in self.hosts if first <= rank <= last), "a host not named")

    def add(self, line: Mapping[str, Any]) -> None:
        """One interval."""
        self.intervals += 1
        self.compared += _is_of_many(line.get("peak_bytes"))
        for name in FIGURES:
            value = number(line.get(name))
            if isfinite(value):
                self.extremes.setdefault(name, Extremes()).add(value, self.last_step)
        rank = line.get("slowest_rank")
        if type(rank) is int and 0 <= rank < MAX_RANKS:
            self.slowest[rank] += 1
            self.own_seconds[rank] = _most(line.get("own_seconds"))
        self.peak_bytes = float(np.fmax(self.peak_bytes, _most(line.get("peak_bytes"))))


def read_ranks(folder: RunFolder, training: Training, points: int) -> Ranks:
    """All intervals, in curves of at most `points` points. Raises DataError, OSError."""
    found, place_of = Ranks(), place_at(training)
    buckets = Buckets(FIGURES, count_lines(folder.ranks), points)
    for line in read_lines(folder.ranks):
        step = None if line is None else line.get("step")
        if line is None or type(step) is not int or not 0 <= step < MAX_STEP:
            found.damaged += 1
        elif "hosts" in line:
            found.hosts = _hosts(line["hosts"])
        elif step <= found.last_step:
            found.damaged += 1
        else:
            found.last_step = step
            found.add(line)
            buckets.add(place_of(step), {name: value for name, value in line.items() if value is not None})
    found.curves = buckets.curves()
    return found


def figures_of(ranks: Ranks) -> dict[str, str]:
    """The rows of the table, of one run."""
    if not ranks.intervals:
        return {}
    wait = ranks.extremes.get("data_wait", Extremes())
    return {
        "ranks, and hosts": f"{max((last for *_, last in ranks.hosts), default=-1) + 1:,}, "
        f"{len({name for name, *_ in ranks.hosts}):,}",
        **(_slowest(ranks) if ranks.compared else {}),
        "data wait, median of the largest shares": _share(ranks, "data_wait"),
        "data wait, highest": f"{wait.highest[0]:.1%} (step {wait.highest[1]:,})"
        if isfinite(wait.highest[0])
        else NOTHING,
        "most memory of a rank": f"{ranks.peak_bytes / (1 << 30):,.3g} GiB"
        if isfinite(ranks.peak_bytes)
        else NOTHING,
    }


def _slowest(ranks: Ranks) -> dict[str, str]:
    """The rows about the slowest of several ranks."""
    most = ranks.slowest.most_common(1)
    rank, count = most[0] if most else (None, 0)
    at_last = ranks.extremes.get("to_median", Extremes()).last
    return {
        "slowest rank": NOTHING
        if rank is None
        else f"rank {rank} on {ranks.host_of(rank)}, in {count / ranks.compared:.0%} of {ranks.compared:,} intervals",
        "its own seconds a step, when it last was": NOTHING
        if rank is None
        else figure(ranks.own_seconds[rank], 3),
        "slowest over median rank's own time, median": _median(ranks, "to_median"),
        "the same, last": f"{figure(at_last[0], 3)} (step {at_last[1]:,})"
        if isfinite(at_last[0])
        else NOTHING,
    }


def _is_of_many(column: Any) -> bool:
    """Whether it is a list of several ranks, or what stands for it in a large world."""
    return isinstance(column, dict) or (isinstance(column, list) and len(column) > 1)


def _middle(ranks: Ranks, name: str) -> float:
    curve = ranks.curves.get(name)
    values = np.zeros(0) if curve is None else curve.middle[np.isfinite(curve.middle)]
    return float(np.median(values)) if len(values) else nan


def _median(ranks: Ranks, name: str) -> str:
    return figure(_middle(ranks, name), 3)


def _share(ranks: Ranks, name: str) -> str:
    middle = _middle(ranks, name)
    return f"{middle:.1%}" if isfinite(middle) else NOTHING


def _most(column: Any) -> float:
    """Of a list by rank, or of what stands for it in a large world."""
    values = column if isinstance(column, list) else [column.get("max")] if isinstance(column, dict) else []
    return max((each for each in map(number, values[:MAX_RANKS]) if isfinite(each)), default=nan)


def _hosts(said: Any) -> list[tuple[str, int, int]]:
    """What is none is left out."""
    return [
        (str(each[0])[:MAX_TEXT], each[1], each[2])
        for each in (said if isinstance(said, list) else [])[:MAX_HOSTS]
        if isinstance(each, list) and len(each) == 3 and all(type(rank) is int for rank in each[1:])
    ]
