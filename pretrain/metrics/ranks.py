"""The lines of ranks.jsonl: the hosts once for each start, and every so many steps the ranks beside each other."""

from collections.abc import Sequence
from itertools import groupby
from statistics import median
from typing import Any

from pretrain.metrics.records import RanksRecord

ALL_UP_TO = 64  # ranks that are listed one by one; of larger worlds the slowest
SLOWEST = 8


def hosts_line(step: int, hosts: Sequence[str]) -> dict[str, Any]:
    """Of a start after `step`: [host, its first rank, its last], in the order of the ranks."""
    runs = []
    for host, ranks in groupby(range(len(hosts)), key=lambda rank: hosts[rank]):
        each = list(ranks)
        runs.append([host, each[0], each[-1]])
    return {"step": step, "ranks": len(hosts), "hosts": runs}


def ranks_line(record: RanksRecord) -> dict[str, Any]:
    """Means of a step over the interval. `data_wait` is the largest share of the seconds that a rank waited for its
    data; `slowest_rank` has the most seconds of its own, `to_median` times those of the median rank."""
    slowest, columns = record.slowest, _columns(record)
    line = {
        "step": record.step,
        "steps": record.steps,
        "seconds": record.seconds,
        "data_wait": max(record.data_wait_seconds) / record.seconds,
        "slowest_rank": None if slowest is None else slowest.rank,
        "to_median": None if slowest is None else slowest.to_median,
    }
    if len(record.peak_bytes) <= ALL_UP_TO:
        return line | columns
    order = sorted(range(len(record.peak_bytes)), key=lambda rank: -_pace(record, rank))
    shown = [
        {"rank": rank, **{name: column[rank] for name, column in columns.items()}} for rank in order[:SLOWEST]
    ]
    return line | {name: _spread(column) for name, column in columns.items()} | {"slowest": shown}


def _columns(record: RanksRecord) -> dict[str, list[Any]]:
    return {
        "own_seconds": list(record.own_seconds),
        "data_wait_seconds": list(record.data_wait_seconds),
        "peak_bytes": list(record.peak_bytes),
    }


def _pace(record: RanksRecord, rank: int) -> float:
    own = record.own_seconds[rank]
    return record.data_wait_seconds[rank] if own is None else own


def _spread(column: Sequence[Any]) -> dict[str, Any] | None:
    if None in column:
        return None
    return {"min": min(column), "median": median(column), "max": max(column)}
