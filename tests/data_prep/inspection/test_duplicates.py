"""Repeated documents: exact while the table has room, an unbiased estimate beyond."""

from collections import Counter

import numpy as np

from data_prep.inspection.duplicates import Seen

ALL_BITS = (1 << 64) - 1


def hashes_of(copies: list[int], seed: int = 0) -> np.ndarray:
    """Random hashes, each as often as `copies` says, in random order."""
    draw = np.random.default_rng(seed)
    distinct = draw.integers(0, ALL_BITS, len(copies), dtype=np.uint64, endpoint=True)
    return draw.permutation(np.repeat(distinct, copies))


def seen_of(hashes: np.ndarray, capacity: int, batches: int = 13) -> Seen:
    seen = Seen.nothing(capacity)
    for part in np.array_split(hashes, batches):
        seen = seen.add(part)
        assert len(seen.hashes) <= capacity
    return seen


def test_exact_while_there_is_room() -> None:
    hashes = hashes_of([1] * 500 + [2] * 100 + [7] * 10)
    seen = seen_of(hashes, 1000)
    assert seen.one_in == 1
    assert dict(zip(seen.hashes.tolist(), seen.counts.tolist(), strict=True)) == Counter(hashes.tolist())
    assert seen.repeated_share == 160 / 770


def test_the_sample_has_all_copies_of_what_it_has() -> None:
    hashes = hashes_of([1] * 5000 + [3] * 1000)
    seen = seen_of(hashes, 200)
    copies = Counter(hashes.tolist())
    assert seen.one_in >= 32
    chosen = {value: count for value, count in copies.items() if value % seen.one_in == 0}
    assert dict(zip(seen.hashes.tolist(), seen.counts.tolist(), strict=True)) == chosen


def test_the_estimate_has_no_bias() -> None:
    copies = [1] * 1500 + [2] * 300 + [5] * 60  # 2,400 documents, 540 of them repetitions
    shares = [seen_of(hashes_of(copies, seed), 100).repeated_share for seed in range(60)]
    error = np.std(shares) / np.sqrt(len(shares))
    assert abs(np.mean(shares) - 540 / 2400) < 3 * error
    assert error < 0.01


def test_nothing_seen() -> None:
    assert Seen.nothing().repeated_share == 0
    assert Seen.nothing().share_in(Seen.nothing()) == 0


def test_shared_documents_exact_and_sampled() -> None:
    train, other = hashes_of([1] * 4000, 1), hashes_of([1] * 3000, 2)
    heldout = np.concatenate([train[:1000], train[:500], other])  # 1,500 of 4,500
    assert seen_of(heldout, 1 << 20).share_in(seen_of(train, 1 << 20)) == 1500 / 4500
    sampled = seen_of(heldout, 1 << 20).share_in(seen_of(train, 600))
    assert 0.25 < sampled < 0.42
    sampled = seen_of(heldout, 600).share_in(seen_of(train, 1 << 20))
    assert 0.25 < sampled < 0.42
