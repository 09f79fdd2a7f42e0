"""The held-out split: by hash, duplicates together, neither side empty, nothing lost."""

import numpy as np
import pytest

from data_prep.heldout import Assigned, HashedDocuments, HeldoutSplit, SegmentEnd, document_hash, take
from data_prep.report import SplitCounts, heldout_notes
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


def assign(fraction: float, batches: list[list[int]], *, strict: bool = False) -> dict[str, list[int]]:
    """The hashes that each split got, in the order of writing; a segment ends after each batch."""
    split = HeldoutSplit(fraction, strict=strict)
    everything = hashed([value for batch in batches for value in batch])
    written: dict[str, list[int]] = {"train": [], "heldout": []}
    start, num_ends = 0, 0
    results: list[Assigned | SegmentEnd] = []
    for batch in batches:
        chosen = np.zeros(len(everything.hashes), dtype=np.bool_)
        chosen[start : start + len(batch)] = True
        start += len(batch)
        results += [*split.assign(take(everything, chosen)), *split.assign(SegmentEnd())]
    for item in [*results, *split.finish()]:
        if isinstance(item, SegmentEnd):
            num_ends += 1
        else:
            # Nothing leaves its segment, however long it waited.
            assert set(everything.hashes[item.documents.tokens]) <= set(batches[num_ends])
            written[item.split] += everything.hashes[item.documents.tokens[::2]].tolist()
    assert num_ends == len(batches)
    return written


HALF = 1 << 63
LOW, LOWER, HIGH, HIGHER = HALF - 5, HALF - 9, HALF + 5, HALF + 9


@pytest.mark.parametrize(
    ("batches", "train", "heldout"),
    [
        ([[HIGH, LOW, HIGHER], [LOWER, LOWER]], {HIGH, HIGHER}, {LOW, LOWER}),
        ([[HIGH], [HIGHER]], {HIGHER}, {HIGH}),  # none is below: the lowest is held out
        ([[HIGHER, HIGH, HIGH]], {HIGH}, {HIGHER}),  # the one with the fewest duplicates
        ([[HIGHER, HIGHER, HIGH, HIGH]], {HIGHER}, {HIGH}),  # with its duplicates
        ([[LOW], [LOWER]], {LOW}, {LOWER}),  # all are below: so is the lowest then
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


def test_batches_without_a_document() -> None:
    split = HeldoutSplit(0.5)
    assert [*split.assign(hashed([])), *split.finish()] == []


def test_zero_holds_nothing_out() -> None:
    assert assign(0.0, [[0, 1], [2]]) == {"train": [0, 1, 2], "heldout": []}


def test_share_of_real_texts_is_near_the_fraction() -> None:
    hashes = [document_hash(f"document {number}") for number in range(5000)]
    written = assign(0.1, [hashes])
    assert 400 < len(written["heldout"]) < 600


def test_order_is_kept_while_documents_wait() -> None:
    written = assign(0.5, [[HIGHER, HIGH], [HIGHER + 1, LOW, HIGH + 1], [HIGHER + 2]])
    assert written == {"train": [HIGHER, HIGH, HIGHER + 1, HIGH + 1, HIGHER + 2], "heldout": [LOW]}


def test_strict_parts_follow_the_rule_however_small() -> None:
    assert assign(0.5, [[HIGH], [HIGHER]], strict=True) == {"train": [HIGH, HIGHER], "heldout": []}
    assert assign(0.5, [[LOW], [LOWER]], strict=True) == {"train": [], "heldout": [LOW, LOWER]}


def test_a_large_corpus_on_one_side_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.heldout.MAX_WAITING_TOKENS", 6)
    assert assign(0.5, [[HIGH], [HIGHER], [HIGH + 1]]) == {"train": [HIGHER, HIGH + 1], "heldout": [HIGH]}
    assert assign(0.5, [[HIGH], [HIGHER], [HIGH + 1, HIGH + 2]])["heldout"] == []


SMALL, SMALLER = 3, 1  # below one in a hundred


@pytest.mark.parametrize(
    "batches",
    [
        [[HIGH] * 99, [HIGHER]],  # none is below, and the lowest has 98 duplicates
        [[SMALL] * 50, [SMALL] * 49 + [HIGHER]],  # all but one are below
        [[HIGHER], [SMALL] * 99],
        [[SMALLER], [SMALL] * 99],  # all are below
    ],
)
def test_of_a_corpus_of_duplicates_the_most_is_trained_on(batches: list[list[int]]) -> None:
    written = assign(0.01, batches)
    assert [len(written["train"]), len(written["heldout"])] == [99, 1]


def test_what_asks_for_most_gets_most() -> None:
    written = assign(0.9, [[SMALL, SMALLER, LOW, LOWER, (1 << 64) - 1]])
    assert written == {"train": [(1 << 64) - 1], "heldout": [SMALL, SMALLER, LOW, LOWER]}


@pytest.mark.parametrize(
    ("asked", "num_heldout", "says"),
    [
        (0.01, 0, "Nothing is held out"),
        (0.01, 1, "1 of 100 documents"),
        (0.01, 3, "3 of 100 documents (3.00%), where --heldout asks for 1.00%"),
        (0.5, 20, "20 of 100 documents"),
        (0.0, 0, ""),
    ],
)
def test_a_share_far_from_what_was_asked_is_said(asked: float, num_heldout: int, says: str) -> None:
    notes = heldout_notes(
        asked, {"train": SplitCounts(100 - num_heldout), "heldout": SplitCounts(num_heldout)}
    )
    is_near = not says or asked / 2 <= num_heldout / 100 <= 2 * asked
    assert notes == [] if is_near else says in notes[0]
