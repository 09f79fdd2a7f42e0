"""How often each length occurs, kept exactly and sparsely: as many entries as there are different lengths."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


@dataclass(frozen=True)
class Distribution:
    """`values` ascending and how often each occurs, both int64."""

    values: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, lengths: np.ndarray) -> Self:
        values, counts = np.unique(lengths.astype(np.int64), return_counts=True)
        return cls(values, counts.astype(np.int64))

    @classmethod
    def empty(cls) -> Self:
        return cls.of(np.empty(0))

    def plus(self, other: "Distribution") -> "Distribution":
        values, place = np.unique(np.concatenate([self.values, other.values]), return_inverse=True)
        counts = np.zeros(len(values), dtype=np.int64)
        np.add.at(counts, place, np.concatenate([self.counts, other.counts]))
        return Distribution(values, counts)

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    def quantile(self, share: float) -> int:
        """The value nearest to that share of the sorted list."""
        place = round(share * (self.total - 1))
        return int(self.values[np.searchsorted(np.cumsum(self.counts), place, side="right")])

    def bins(self) -> list[tuple[int, int, int]]:
        """(least, most, count) by powers of two, 1, 2, 3-4, 5-8, ..., from the first that is not empty to the
        last."""
        powers = np.ceil(np.log2(self.values)).astype(np.int64)
        counts = np.zeros(int(powers[-1]) + 1, dtype=np.int64)
        np.add.at(counts, powers, self.counts)
        first = int(powers[0])
        return [(_least(power), 1 << power, int(counts[power])) for power in range(first, len(counts))]

    def figures(self) -> dict[str, Any]:
        return {
            "mean": float(self.values @ self.counts / self.total),
            "quantiles": {f"{share:g}": self.quantile(share) for share in QUANTILES},
            "histogram": [list(each) for each in self.bins()],
        }


def _least(power: int) -> int:
    return (1 << power - 1) + 1 if power else 1
