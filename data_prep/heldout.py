"""Which split a document belongs to: decided by the hash of its text, so that exact duplicates stay together.

A document is held out if its hash, as a share of the 64-bit range, is below the asked-for fraction. In a
tiny corpus one side may come out empty; then the document with the lowest hash is held out, or the one with
the highest hash trained on. That needs no second pass: until both sides have a document, the best candidate
is kept back.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pretrain.data.store import Documents


@dataclass(frozen=True)
class HashedDocuments:
    """Documents with the hash of each one's text, uint64 [documents]."""

    documents: Documents
    hashes: np.ndarray


def document_hash(text: str) -> int:
    """64 bits of the text's blake2b."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def hash_threshold(fraction: float) -> int:
    """Documents whose hash is below it are held out."""
    return int(fraction * (1 << 64))


def take(batch: HashedDocuments, chosen: np.ndarray) -> HashedDocuments:
    """The documents where the bool array `chosen` [documents] is true."""
    if chosen.all():
        return batch
    documents = batch.documents
    of_sentence = np.repeat(chosen, documents.document_lengths)
    of_token = np.repeat(of_sentence, documents.sentence_lengths)
    return HashedDocuments(
        Documents(
            tokens=documents.tokens[of_token],
            sentence_lengths=documents.sentence_lengths[of_sentence],
            document_lengths=documents.document_lengths[chosen],
            word_starts=documents.word_starts[of_token],
        ),
        batch.hashes[chosen],
    )


class HeldoutSplit:
    """Assigns batches to splits in the order in which they come; `finish` hands out what was kept back.

    Both methods yield (split name, documents) in the order in which they are to be written.
    """

    def __init__(self, fraction: float) -> None:
        self._threshold = hash_threshold(fraction)
        self._kept_back: HashedDocuments | None = None
        self._native: str | None = None  # the only split that has had a document so far
        self._settled = self._threshold == 0
        self._written = False

    def assign(self, batch: HashedDocuments) -> Iterator[tuple[str, Documents]]:
        is_heldout = batch.hashes < np.uint64(self._threshold)
        for split, chosen in (("train", ~is_heldout), ("heldout", is_heldout)):
            if chosen.any():
                yield from self._assign(split, take(batch, chosen))

    def finish(self) -> Iterator[tuple[str, Documents]]:
        """A candidate goes to the split that has none; a corpus of one distinct document is trained on."""
        if self._kept_back is not None:
            split = "heldout" if self._native == "train" and self._written else "train"
            yield split, self._kept_back.documents

    def _assign(self, split: str, batch: HashedDocuments) -> Iterator[tuple[str, Documents]]:
        if not self._settled and self._native not in (None, split):
            assert self._kept_back is not None and self._native is not None
            yield self._native, self._kept_back.documents
            self._settled, self._kept_back = True, None
        if self._settled:
            yield split, batch.documents
            return
        self._native = split
        if self._kept_back is not None:
            batch = _joined(self._kept_back, batch)
        best = batch.hashes.min() if split == "train" else batch.hashes.max()
        self._kept_back = take(batch, batch.hashes == best)
        rest = batch.hashes != best
        if rest.any():
            self._written = True
            yield split, take(batch, rest).documents


def _joined(first: HashedDocuments, second: HashedDocuments) -> HashedDocuments:
    a, b = first.documents, second.documents
    return HashedDocuments(
        Documents(
            tokens=np.concatenate([a.tokens, b.tokens]),
            sentence_lengths=np.concatenate([a.sentence_lengths, b.sentence_lengths]),
            document_lengths=np.concatenate([a.document_lengths, b.document_lengths]),
            word_starts=np.concatenate([a.word_starts, b.word_starts]),
        ),
        np.concatenate([first.hashes, second.hashes]),
    )
