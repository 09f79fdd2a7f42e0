"""Which split a document belongs to: decided by the hash of its text, so that exact duplicates stay together.

A document is held out if its hash, as a share of the 64-bit range, is below the asked-for fraction. In a tiny
corpus one side may come out empty; then the document with the lowest hash is held out, or the one with the
highest hash trained on. That needs no second pass: until both sides have a document, what came so far waits
here, in its order, up to a bound. Beyond the bound the corpus is not tiny, and the rule holds as it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import xxhash

from pretrain.data.store import Documents

MAX_WAITING_TOKENS = 1 << 24


@dataclass(frozen=True)
class HashedDocuments:
    """Documents with the hash of each one's text, uint64 [documents]."""

    documents: Documents
    hashes: np.ndarray


@dataclass(frozen=True)
class SegmentEnd:
    """Between the documents of two segments."""


@dataclass(frozen=True)
class Assigned:
    """Documents of one split, in the order in which they are to be written."""

    split: str
    documents: Documents


def document_hash(text: str) -> int:
    """XXH3, 64 bits, of the text's UTF-8: even over all texts, and no guard against who seeks two of one hash."""
    return xxhash.xxh3_64_intdigest(text.encode())


def hash_threshold(fraction: float) -> int:
    """Documents whose hash is below it are held out."""
    return int(fraction * (1 << 64))


def take(batch: HashedDocuments, chosen: np.ndarray) -> HashedDocuments:
    """The documents where the bool array `chosen` [documents] is true."""
    if chosen.all():
        return batch
    documents = batch.documents
    # Where documents begin in sentences, and those in tokens.
    sentences = _starts(documents.document_lengths)
    tokens = _starts(documents.sentence_lengths)[sentences]
    edges = np.flatnonzero(np.diff(chosen, prepend=False, append=False)).reshape(-1, 2)

    def chosen_of(array: np.ndarray, starts: np.ndarray) -> np.ndarray:
        return np.concatenate([array[start:end] for start, end in starts[edges].tolist()] or [array[:0]])

    return HashedDocuments(
        Documents(
            tokens=chosen_of(documents.tokens, tokens),
            sentence_lengths=chosen_of(documents.sentence_lengths, sentences),
            document_lengths=documents.document_lengths[chosen],
            word_starts=chosen_of(documents.word_starts, tokens),
        ),
        batch.hashes[chosen],
    )


def _starts(lengths: np.ndarray) -> np.ndarray:
    """int64 [lengths + 1], from 0 to the sum."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


class HeldoutSplit:
    """Assigns batches to splits in the order in which they come; `finish` hands out what still waits.

    With `strict` nothing waits: the rule holds for the smallest corpus (the parts of a build cannot know what
    the others have).
    """

    def __init__(self, fraction: float, *, strict: bool = False) -> None:
        self._threshold = hash_threshold(fraction)
        self._waiting: list[HashedDocuments | SegmentEnd] = []
        self._waiting_tokens = 0
        self._sides: set[bool] = set()
        self.is_settled = strict or self._threshold == 0

    def assign(self, item: HashedDocuments | SegmentEnd) -> Iterator[Assigned | SegmentEnd]:
        """What can be written now."""
        if self.is_settled:
            yield from self._split(item, self._threshold)
            return
        self._waiting.append(item)
        if isinstance(item, HashedDocuments):
            self._waiting_tokens += len(item.documents.tokens)
            self._sides.update((item.hashes < np.uint64(self._threshold)).tolist())
        if len(self._sides) == 2 or self._waiting_tokens > MAX_WAITING_TOKENS:
            self.is_settled = True
            yield from self._release(self._threshold)

    def finish(self) -> Iterator[Assigned | SegmentEnd]:
        """What waits, with one document moved to the empty side; a corpus of one distinct document is trained
        on."""
        batches = [item.hashes for item in self._waiting if isinstance(item, HashedDocuments)]
        hashes = np.concatenate([np.zeros(0, dtype=np.uint64), *batches])
        if not len(hashes):
            return
        lowest, highest = int(hashes.min()), int(hashes.max())
        # All are on one side: the line is drawn just above the lowest, or at the highest.
        between = lowest + 1 if self._sides == {False} else highest
        yield from self._release(0 if lowest == highest else between)

    def _release(self, threshold: int) -> Iterator[Assigned | SegmentEnd]:
        waiting, self._waiting = self._waiting, []
        for item in waiting:
            yield from self._split(item, threshold)

    def _split(self, item: HashedDocuments | SegmentEnd, threshold: int) -> Iterator[Assigned | SegmentEnd]:
        if isinstance(item, SegmentEnd):
            yield item
            return
        is_heldout = item.hashes < np.uint64(threshold)
        for split, chosen in (("train", ~is_heldout), ("heldout", is_heldout)):
            if chosen.any():
                yield Assigned(split, take(item, chosen).documents)
