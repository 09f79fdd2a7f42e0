"""From a run of Megatron documents to documents as a store has them.

1. at both ends of each sequence, markers go: the end of document that `--append-eod` adds, and what a Hugging
   Face tokenizer put around each text ([CLS], [SEP]);
2. every other id must be in the vocabulary; special ids inside a sequence become unknown;
3. sequences without tokens go, then documents without sequences;
4. a word starts where the token says so, and with each sentence.
"""

from dataclasses import dataclass

import numpy as np

from data_prep.heldout import HashedDocuments
from data_prep.megatron.indexed import Run
from data_prep.token_hash import hash_documents
from pretrain.data.store import Documents, StoreLayout
from pretrain.errors import DataError


@dataclass(frozen=True)
class Cleaned:
    """The documents that have tokens, and what was taken away or changed."""

    hashed: HashedDocuments
    num_unknown: int
    num_special_replaced: int
    num_markers: int
    num_empty_sequences: int
    num_empty_documents: int


class Cleaner:
    """Cleans for one store. `word_starts` bool [vocabulary]: the token begins a word; `eod_id`: an end of document
    that may lie beyond the vocabulary."""

    def __init__(self, layout: StoreLayout, word_starts: np.ndarray, eod_id: int | None) -> None:
        self._layout = layout
        self._word_starts = word_starts
        special = set(layout.all_special_ids) - {layout.special_ids.unk}
        self._special = np.array(sorted(special | _given(eod_id)))
        self._markers = np.array(sorted(special - {layout.special_ids.mask} | _given(eod_id)))

    def clean(self, run: Run, origin: str) -> Cleaned:
        """`origin` names the file in errors; raises DataError for an id beyond the vocabulary."""
        tokens = run.tokens.astype(np.int64)
        starts, ends = _without_markers(run.sequence_lengths, ~np.isin(tokens, self._markers))
        lengths = ends - starts
        tokens = tokens[_between(starts, ends, len(tokens))]
        is_special = np.isin(tokens, self._special)
        unk_id = self._layout.special_ids.unk
        tokens[is_special] = unk_id
        self._check(tokens, lengths, run, origin)
        document_lengths, kept = _without_empty(lengths > 0, run.document_lengths)
        lengths = lengths[lengths > 0]
        word_starts = self._word_starts[tokens]
        word_starts[np.cumsum(lengths) - lengths] = True
        documents = Documents(
            tokens=tokens.astype(self._layout.token_dtype),
            sentence_lengths=lengths.astype(np.uint32),
            document_lengths=document_lengths.astype(np.uint32),
            word_starts=word_starts,
        )
        token_ends = documents.ends()[1]
        hashes = hash_documents(documents.tokens, np.diff(token_ends, prepend=0))
        return Cleaned(
            hashed=HashedDocuments(documents, hashes),
            num_unknown=int((tokens == unk_id).sum()),
            num_special_replaced=int(is_special.sum()),
            num_markers=len(run.tokens) - len(tokens),
            num_empty_sequences=len(run.sequence_lengths) - len(lengths),
            num_empty_documents=int((~kept).sum()),
        )

    def _check(self, tokens: np.ndarray, lengths: np.ndarray, run: Run, origin: str) -> None:
        outside = (tokens < 0) | (tokens >= self._layout.vocab_size)
        if not outside.any():
            return
        place = int(np.argmax(outside))
        sequence = run.first_sequence + int(np.searchsorted(np.cumsum(lengths), place, side="right"))
        token = int(tokens[place])
        if token < 0:
            raise DataError(
                f"{origin} has the id {token} in sequence {sequence}, and no token has a negative one: copy the file "
                "again, or make the dataset again."
            )
        raise DataError(
            f"{origin} has the id {token} in sequence {sequence}, and the vocabulary of --tokenizer has "
            f"{self._layout.vocab_size}: give the tokenizer that the dataset was made with, or, if it marks the end "
            f"of documents, --eod-id {token}."
        )


def _given(eod_id: int | None) -> set[int]:
    return set() if eod_id is None else {eod_id}


def _without_markers(lengths: np.ndarray, is_text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(start, end) of each sequence from its first to its last token of text; equal where it has none."""
    ends = np.cumsum(lengths)
    places = np.flatnonzero(is_text)
    first, last = np.searchsorted(places, ends - lengths), np.searchsorted(places, ends)
    has_text = first < last
    starts, stops = (ends - lengths).copy(), (ends - lengths).copy()
    starts[has_text] = places[first[has_text]]
    stops[has_text] = places[last[has_text] - 1] + 1
    return starts, stops


def _between(starts: np.ndarray, ends: np.ndarray, size: int) -> np.ndarray:
    """[size] bool: the place lies in one of the spans, which are in order and apart."""
    steps = np.zeros(size + 1, dtype=np.int64)
    np.add.at(steps, starts, 1)
    np.add.at(steps, ends, -1)
    return np.cumsum(steps[:-1]) > 0


def _without_empty(has_tokens: np.ndarray, document_lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(sequences with tokens of each document that has any, [documents] bool: it has any)."""
    document = np.repeat(np.arange(len(document_lengths)), document_lengths)
    lengths = np.bincount(document[has_tokens], minlength=len(document_lengths))
    return lengths[lengths > 0], lengths > 0
