"""Which split a document belongs to: decided by the hash of its text, so that exact duplicates stay together.

A document is held out if its hash, as a share of the 64-bit range, is below the asked-for fraction. In a tiny
corpus, one made of duplicates above all, a side may come out empty or nearly all be held out; then one document
alone is held out, that with the fewest duplicates (the lowest hash among equals), and these with it: it leaves the
most for training. That needs no second pass: until the sides have come out fairly, what came so far waits here, in
its order, up to a bound. Beyond the bound the corpus is not tiny, and the rule holds as it is.
"""

from collections.abc import Callable, Iterator
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


def is_lopsided(num_heldout: int, num_documents: int, fraction: float) -> bool:
    """Whether most documents would be held out, and more than twice as many as were asked for."""
    return 2 * num_heldout > num_documents and num_heldout > 2 * fraction * num_documents


class HeldoutSplit:
    """Assigns batches to splits in the order in which they come; `finish` hands out what still waits.

    With `strict` nothing waits: the rule holds for the smallest corpus (the parts of a build cannot know what
    the others have).
    """

    def __init__(self, fraction: float, *, strict: bool = False) -> None:
        self._fraction = fraction
        self._threshold = np.uint64(hash_threshold(fraction))
        self._waiting: list[HashedDocuments | SegmentEnd] = []
        self._waiting_tokens = self._waiting_documents = self._waiting_below = 0
        self.is_settled = strict or self._threshold == 0

    def assign(self, item: HashedDocuments | SegmentEnd) -> Iterator[Assigned | SegmentEnd]:
        """What can be written now."""
        if self.is_settled:
            yield from _split(item, self._is_below)
            return
        self._waiting.append(item)
        if isinstance(item, HashedDocuments):
            self._waiting_tokens += len(item.documents.tokens)
            self._waiting_documents += len(item.hashes)
            self._waiting_below += int(self._is_below(item.hashes).sum())
        if self._is_fair() or self._waiting_tokens > MAX_WAITING_TOKENS:
            self.is_settled = True
            yield from self._release(self._is_below)

    def finish(self) -> Iterator[Assigned | SegmentEnd]:
        """What waits, with the document of the fewest duplicates held out; a corpus of one distinct document is
        trained on."""
        batches = [item.hashes for item in self._waiting if isinstance(item, HashedDocuments)]
        distinct, counts = np.unique(np.concatenate([np.zeros(0, np.uint64), *batches]), return_counts=True)
        # `argmin` gives the first of equals, and `distinct` rises.
        chosen = distinct[[np.argmin(counts)]] if len(distinct) > 1 else distinct[:0]
        yield from self._release(lambda hashes: np.isin(hashes, chosen))

    def _is_below(self, hashes: np.ndarray) -> np.ndarray:
        below: np.ndarray = hashes < self._threshold
        return below

    def _is_fair(self) -> bool:
        """Both sides have a document, and not nearly all are held out."""
        num_below, num_documents = self._waiting_below, self._waiting_documents
        has_both = 0 < num_below < num_documents
        return has_both and not is_lopsided(num_below, num_documents, self._fraction)

    def _release(self, is_heldout: Callable[[np.ndarray], np.ndarray]) -> Iterator[Assigned | SegmentEnd]:
        waiting, self._waiting = self._waiting, []
        for item in waiting:
            yield from _split(item, is_heldout)


def _split(
    item: HashedDocuments | SegmentEnd, is_heldout: Callable[[np.ndarray], np.ndarray]
) -> Iterator[Assigned | SegmentEnd]:
    """`is_heldout` of hashes uint64 [documents]: bool [documents]."""
    if isinstance(item, SegmentEnd):
        yield item
        return
    heldout = is_heldout(item.hashes)
    for split, chosen in (("train", ~heldout), ("heldout", heldout)):
        if chosen.any():
            yield Assigned(split, take(item, chosen).documents)
