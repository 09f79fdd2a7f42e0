"""The words a process has met, with their ids. It grows with them up to a bound; then it is emptied and starts anew.

What it holds never shows in a result, only in how soon the result is there.
"""

import numpy as np

from data_prep.clock import CpuClock
from data_prep.encode.gathering import COUNT_BITS, gather
from data_prep.encode.kernels import PADDING, Cut, Found, Table, rehash, scan
from data_prep.encode.resolving import Resolver

DEFAULT_MAX_WORDS = 1 << 20  # some 100 MB
_FIRST_WORDS = 1 << 16
_GROWTH = 4
_LONG_BYTES_PER_WORD = 16
_LEAST_LONG_BYTES = 1 << 12
_VALUES_PER_WORD = 4
_NO_IDS = -1
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
        # Where the tokens of each entry lie in `_values`, and how many they are.
        self._values_at = np.full(len(self._table.long_at), _NO_IDS, dtype=np.int64)
        self._values = np.empty(_VALUES_PER_WORD * len(self._table.long_at), dtype=np.uint32)
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
            self._resolve(found)
        with clock.timed("look up"):
            tokens, lengths = self._gathered(found.words, found.ends[:num_found], skip[:num_found])
        if end < len(text) - PADDING:  # the table was full
            if num_found == 0 and was_empty and self._table.counts[1] == self._max_words:
                past_sentence = start + int(np.argmin(text[start:])) + 1
                return tokens, np.array([-1]), past_sentence
            self._make_room()
        return tokens, lengths, int(end)

    @property
    def num_bytes(self) -> int:
        """What it holds in memory."""
        held = (*self._table, self._values_at, self._values)
        return sum(array.nbytes for array in held)

    def _room_for(self, num_bytes: int, num_sentences: int) -> Found:
        """For what a scan finds; taken again every time, for fresh memory costs more than what is written there."""
        if num_bytes > len(self._found.words) or num_sentences > len(self._found.ends):
            self._found = _found(num_bytes, num_sentences)
        self._found.num_new_bytes[0] = 0
        return self._found

    def _resolve(self, found: Found) -> None:
        """The tokens of the new words, behind those of the words before them."""
        content = found.new_keys[: found.num_new_bytes[0]].tobytes().decode()
        if not content:
            return
        keys = content.removesuffix("\n").split("\n")
        ids, counts, are_usable = self._resolver.resolve(keys)
        first = self._num_values
        self._num_values += len(ids)
        while len(self._values) < self._num_values:
            self._values = np.concatenate([self._values, np.empty_like(self._values)])
        self._values[first : self._num_values] = self._tokens[ids]
        at = first + np.cumsum(counts) - counts
        last = int(self._table.counts[0])
        self._values_at[last - len(keys) : last] = np.where(are_usable, at << COUNT_BITS | counts, _NO_IDS)

    def _gathered(
        self, words: np.ndarray, ends: np.ndarray, skip: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        lengths = np.empty(len(ends), dtype=np.int64)
        num_words = int(ends[-1]) if len(ends) else 0
        room, num_tokens = _TOKENS_PER_WORD * num_words, -1
        while num_tokens < 0:
            tokens = np.empty(room, dtype=np.uint32)
            num_tokens = gather(words, ends, skip, self._values_at, self._values, lengths, tokens)
            room = 2 * room + _LEAST_ROOM
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
        after.long_at[:capacity] = before.long_at
        after.long_bytes[: len(before.long_bytes)] = before.long_bytes
        more = np.full(len(after.long_at) - capacity, _NO_IDS, dtype=np.int64)
        self._values_at = np.concatenate([self._values_at, more])


def _found(num_bytes: int, num_sentences: int) -> Found:
    return Found(
        words=np.empty(num_bytes, dtype=np.int32),
        ends=np.empty(num_sentences, dtype=np.int64),
        new_keys=np.empty(_KEY_BYTES_PER_BYTE * num_bytes, dtype=np.uint8),
        num_new_bytes=np.zeros(1, dtype=np.int64),
    )


def _table(capacity: int) -> Table:
    return Table(
        slots=np.zeros((1 << (2 * capacity - 1).bit_length(), 3), dtype=np.uint64),
        counts=np.array([0, capacity, 0], dtype=np.int64),
        long_at=np.zeros(capacity, dtype=np.int64),
        long_bytes=np.zeros(max(capacity * _LONG_BYTES_PER_WORD, _LEAST_LONG_BYTES), dtype=np.uint8),
    )
