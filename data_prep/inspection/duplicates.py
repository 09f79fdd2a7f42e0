"""Documents that occur more than once, by the hash of their token ids, in bounded memory.

All copies of a document have one hash. So a sample of the hashes, those that a power of two divides, has each of
its documents with all their copies: the share of repetitions among them estimates that of all without bias. While
all hashes fit the table the power is 1 and the share exact; whenever the table is full the power doubles.
"""

from dataclasses import dataclass, replace

import numpy as np

CAPACITY = 1 << 20  # hashes, 16 bytes each


@dataclass(frozen=True)
class Seen:
    """The hashes seen that `one_in`, a power of two, divides: ascending uint64, and how often each was seen."""

    hashes: np.ndarray
    counts: np.ndarray
    one_in: int = 1
    capacity: int = CAPACITY

    @classmethod
    def nothing(cls, capacity: int = CAPACITY) -> "Seen":
        return cls(np.empty(0, np.uint64), np.empty(0, np.int64), capacity=capacity)

    def add(self, hashes: np.ndarray) -> "Seen":
        both = np.concatenate([self.hashes, hashes[_divided(hashes, self.one_in)]])
        distinct, place = np.unique(both, return_inverse=True)
        counts = np.bincount(place[len(self.hashes) :], minlength=len(distinct))
        counts[place[: len(self.hashes)]] += self.counts
        seen = replace(self, hashes=distinct, counts=counts)
        while len(seen.hashes) > self.capacity:
            seen = seen.thinned(2 * seen.one_in)
        return seen

    def thinned(self, one_in: int) -> "Seen":
        """Those that `one_in`, a multiple of what it is now, divides."""
        kept = _divided(self.hashes, one_in)
        return replace(self, hashes=self.hashes[kept], counts=self.counts[kept], one_in=one_in)

    @property
    def num_documents(self) -> int:
        return int(self.counts.sum())

    @property
    def repeated_share(self) -> float:
        """Share of the documents that repeat another one: what a deduplication would remove."""
        return (self.num_documents - len(self.hashes)) / max(1, self.num_documents)

    def share_in(self, other: "Seen") -> float:
        """Share of these documents that the other has too."""
        one_in = max(self.one_in, other.one_in)
        mine, theirs = self.thinned(one_in), other.thinned(one_in)
        common = mine.counts[np.isin(mine.hashes, theirs.hashes, assume_unique=True)]
        return int(common.sum()) / max(1, mine.num_documents)


def _divided(hashes: np.ndarray, one_in: int) -> np.ndarray:
    return (hashes & np.uint64(one_in - 1)) == 0
