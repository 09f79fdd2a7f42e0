"""The words a process has met, with their ids. It grows with them up to a bound; then it is emptied and starts anew.

What it holds never shows in a result, only in how soon the result is there.
"""

import numpy as np

from data_prep.clock import CpuClock
from data_prep.encode.gathering import NO_TOKENS, gather, given_by
from data_prep.encode.kernels import PADDING, Cut, Found, Table, rehash, scan
from data_prep.encode.resolving import Resolver

DEFAULT_MAX_WORDS = 1 << 20  # some 100 MB
_FIRST_WORDS = 1 << 16
_GROWTH = 4
_LONG_BYTES_PER_WORD = 16
_LEAST_LONG_BYTES = 1 << 12
_LEAST_VALUES = 1 << 12
_TOKENS_PER_WORD, _LEAST_ROOM = 2, 1 << 10
_KEY_BYTES_PER_BYTE = 3  # at most: a word of one byte with its space and a line break


class WordCache:
    """Looks up the words of sentences; new ones are resolved at once."""

    def __init__(
        self, cut: Cut, resolver: Resolver, tokens: np.ndarray, max_words: int = DEFAULT_MAX_WORDS
    ) -> None:
        """`tokens` uint32 [vocabulary] says what stands for each id in what `encode` returns."""
        self._cut = cut
        self._resolver = resolver
        self._tokens = tokens
        self._max_words = max_words
        self._table = _table(min(_FIRST_WORDS, max_words))
        # The tokens of words that give more than fit beside their keys.
        self._values = np.empty(_LEAST_VALUES, dtype=np.uint32)
        self._num_values = 0
        self._found = _found(0, 0)

    def encode(
        self, text: np.ndarray, start: int, skip: np.ndarray, clock: CpuClock
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Sentences of `text` (uint8, padded) from byte `start` on, at most as many as `skip` (bool) has: their
        tokens uint32, lengths int64 [sentences, maybe fewer than asked for], and the byte after the last of them.

        The length of a sentence that must go through the tokenizer as a whole (as those of `skip` must) is -1; it
        has no tokens here.
        """
        found = self._room_for(len(text) - start, len(skip))
        was_empty = self._table.counts[0] == 0
        eights = np.ndarray((len(text) - 7,), np.uint64, text, strides=(1,))
        with clock.timed("look up"):
            end, num_found = scan(text, eights, np.uint64(start), self._cut, self._table, found)
        with clock.timed("new words"):
            pending = self._resolve(found)
        with clock.timed("look up"):
            tokens, lengths = self._gathered(found.words, found.ends[:num_found], skip[:num_found], pending)
        if end < len(text) - PADDING:  # the table was full
            if num_found == 0 and was_empty and self._table.counts[1] == self._max_words:
                past_sentence = start + int(np.argmin(text[start:])) + 1
                return tokens, np.array([-1]), past_sentence
            self._make_room()
        return tokens, lengths, int(end)

    @property
    def num_bytes(self) -> int:
        """What it holds in memory."""
        held = (*self._table, self._values)
        return sum(array.nbytes for array in held)

    def _room_for(self, num_bytes: int, num_sentences: int) -> Found:
        """For what a scan finds; taken again every time, for fresh memory costs more than what is written there."""
        if num_bytes > len(self._found.words) or num_sentences > len(self._found.ends):
            self._found = _found(num_bytes, num_sentences)
        self._found.num_new[:] = 0
        return self._found

    def _resolve(self, found: Found) -> np.ndarray:
        """What each of the new words gives, uint64, which from now on lies beside its key."""
        num_bytes, num_words = found.num_new.tolist()
        if not num_words:
            return np.zeros(0, dtype=np.uint64)
        keys = found.new_keys[: num_bytes - 1].tobytes().decode().split("\n")
        ids, counts, are_usable = self._resolver.resolve(keys)
        pending, values = given_by(self._tokens[ids], counts, self._num_values)
        pending[~are_usable] = NO_TOKENS
        first, self._num_values = self._num_values, self._num_values + len(values)
        while len(self._values) < self._num_values:
            self._values = np.concatenate([self._values, np.empty_like(self._values)])
        self._values[first : self._num_values] = values
        self._table.slots[found.new_slots[:num_words], 2] = pending
        return pending

    def _gathered(
        self, words: np.ndarray, ends: np.ndarray, skip: np.ndarray, pending: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        lengths = np.empty(len(ends), dtype=np.int64)
        num_words = int(ends[-1]) if len(ends) else 0
        room, num_tokens = _TOKENS_PER_WORD * num_words + _LEAST_ROOM, -1
        while num_tokens < 0:
            tokens = np.empty(room, dtype=np.uint32)
            num_tokens = gather(words, ends, skip, pending, self._values, lengths, tokens)
            room *= 2
        return tokens[:num_tokens], lengths

    def _make_room(self) -> None:
        """Grows, or starts anew where it may not."""
        before, capacity = self._table, int(self._table.counts[1])
        if capacity >= self._max_words:
            before.slots[:] = 0
            before.counts[[0, 2]] = 0
            self._num_values = 0
            return
        self._table = after = _table(min(capacity * _GROWTH, self._max_words))
        rehash(before.slots, after.slots)
        after.counts[[0, 2]] = before.counts[[0, 2]]
        after.long_bytes[: len(before.long_bytes)] = before.long_bytes


def _found(num_bytes: int, num_sentences: int) -> Found:
    return Found(
        words=np.empty(num_bytes, dtype=np.uint64),
        ends=np.empty(num_sentences, dtype=np.int64),
        new_keys=np.empty(_KEY_BYTES_PER_BYTE * num_bytes, dtype=np.uint8),
        new_slots=np.empty(num_bytes, dtype=np.int64),
        num_new=np.zeros(2, dtype=np.int64),
    )


def _table(capacity: int) -> Table:
    return Table(
        slots=np.zeros((1 << (2 * capacity - 1).bit_length(), 3), dtype=np.uint64),
        counts=np.array([0, capacity, 0], dtype=np.int64),
        long_bytes=np.zeros(max(capacity * _LONG_BYTES_PER_WORD, _LEAST_LONG_BYTES), dtype=np.uint8),
    )
