"""The held-out split: by hash, duplicates together, neither side empty, nothing lost."""

import numpy as np
import pytest

from data_prep.heldout import HashedDocuments, HeldoutSplit, document_hash, take
from pretrain.data.store import Documents


def hashed(hashes: list[int]) -> HashedDocuments:
    """One document for each hash, its tokens [n, n] in one sentence, where n is its place."""
    count = len(hashes)
    return HashedDocuments(
        Documents(
            tokens=np.repeat(np.arange(count), 2),
            sentence_lengths=np.full(count, 2),
            document_lengths=np.ones(count, dtype=np.int64),
            word_starts=np.ones(2 * count, dtype=np.bool_),
        ),
        np.array(hashes, dtype=np.uint64),
    )


def assign(fraction: float, batches: list[list[int]]) -> dict[str, list[int]]:
    """The hashes that each split got, in the order of writing."""
    split = HeldoutSplit(fraction)
    everything = hashed([value for batch in batches for value in batch])
    written: dict[str, list[int]] = {"train": [], "heldout": []}
    start = 0
    results = []
    for batch in batches:
        chosen = np.zeros(len(everything.hashes), dtype=np.bool_)
        chosen[start : start + len(batch)] = True
        start += len(batch)
        results += list(split.assign(take(everything, chosen)))
    for name, documents in [*results, *split.finish()]:
        written[name] += everything.hashes[documents.tokens[::2]].tolist()
    return written


HALF = 1 << 63
LOW, LOWER, HIGH, HIGHER = HALF - 5, HALF - 9, HALF + 5, HALF + 9


@pytest.mark.parametrize(
    ("batches", "train", "heldout"),
    [
        ([[HIGH, LOW, HIGHER], [LOWER, LOWER]], {HIGH, HIGHER}, {LOW, LOWER}),
        ([[HIGH], [HIGHER]], {HIGHER}, {HIGH}),  # none is below: the lowest is held out
        ([[HIGHER, HIGH, HIGH]], {HIGHER}, {HIGH}),  # with its duplicates
        ([[LOW], [LOWER]], {LOW}, {LOWER}),  # all are below: the highest is trained on
        ([[HIGH, HIGH]], {HIGH}, set()),  # one distinct document is trained on
        ([[LOW]], {LOW}, set()),
        ([[HIGH], [HIGHER], [LOW]], {HIGH, HIGHER}, {LOW}),
        ([[LOW], [LOWER], [HIGH]], {HIGH}, {LOW, LOWER}),
        ([], set(), set()),
    ],
)
def test_assignment(batches: list[list[int]], train: set[int], heldout: set[int]) -> None:
    written = assign(0.5, batches)
    assert (set(written["train"]), set(written["heldout"])) == (train, heldout)
    assert len(written["train"]) + len(written["heldout"]) == sum(map(len, batches))


def test_zero_holds_nothing_out() -> None:
    assert assign(0.0, [[0, 1], [2]]) == {"train": [0, 1, 2], "heldout": []}


def test_share_of_real_texts_is_near_the_fraction() -> None:
    hashes = [document_hash(f"document {number}") for number in range(5000)]
    written = assign(0.1, [hashes])
    assert 400 < len(written["heldout"]) < 600
