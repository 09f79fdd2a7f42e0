"""The ids of words met for the first time, from the tokenizers library, and whether they may be looked up at all.

Plain ASCII is cut as the rule says, and given to the tokenizer's model at once where its normalizer cannot change it
(three times faster). A chunk that is not plain ASCII may depend on what stands beside it: a combining
mark joins the space before it, white space of other kinds joins the pattern of a space, a character may normalize to
nothing or to a space. Such a chunk gets ids of its own only if

1. none of its ends is of a kind that joins anything (`joins_neighbours`), and it holds no "▁" where that means a space;
2. between two plain words the tokenizer gives it the ids that it gives it alone.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import Model

from data_prep.encode.rules import SPACE_MARK, Rule

_GROUP_WORDS = 1024
_TRIAL_WORDS = 64
_NEIGHBOUR = "a"
_BYTE_LEVEL_SPACE = "\u0120"  # of all keys, only those of byte-level tokenizers hold a space

# Grapheme clusters (Unicode, annex 29): what extends the character before it, beyond marks and emoji modifiers...
_JOINS_BEFORE = frozenset("\u0e33\u0eb3\uff9e\uff9f")
# ...and what is prepended to the one after it, beyond format characters.
_JOINS_AFTER = frozenset(
    map(chr, (0xD4E, 0x111C2, 0x111C3, 0x1193F, 0x11941, 0x11A3A, *range(0x11A84, 0x11A8A), 0x11D46, 0x11F02))
)
_OTHER_WHITE_SPACE = frozenset("\u180e\u200b\ufeff")


def joins_neighbours(chunk: str) -> bool:
    """Whether an end of the chunk is white space or may form one character with what is beyond it."""
    first, last = chunk[0], chunk[-1]
    if any(end.isspace() or end in _OTHER_WHITE_SPACE for end in (first, last)):
        return True
    category = unicodedata.category(first)
    if category[0] == "M" or category in ("Cf", "Sk", "Cn") or first in _JOINS_BEFORE:
        return True
    return unicodedata.category(last) in ("Cf", "Cn") or last in _JOINS_AFTER


class Resolver:
    """Resolves keys: words, with a space before them where `keeps_space`.

    `tokenizer` must put no space before a text. `rule` must have a cut.
    """

    def __init__(self, tokenizer: Tokenizer, rule: Rule) -> None:
        assert rule.cut is not None
        self._tokenizer = tokenizer
        self._model: Model = tokenizer.model
        self._model_prefix = rule.model_prefix
        self._keeps_space = rule.cut.keeps_space
        self._has_space_mark = rule.has_space_mark
        self._first_neighbour = self._ids(_NEIGHBOUR)
        self._next_neighbour = self._ids(" " + _NEIGHBOUR) if self._keeps_space else self._first_neighbour

    def resolve(self, keys: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """ids uint32 [tokens] of all the keys, their numbers int64 [keys], and whether they are usable, bool [keys]."""
        ids: list[list[int]] = [[]] * len(keys)
        odd = [index for index, key in enumerate(keys) if not (key.isascii() and key.isprintable())]
        are_usable = np.ones(len(keys), dtype=np.bool_)
        if self._model_prefix is None:
            self._normalized(keys, range(len(keys)), ids)
        else:
            are_usable[odd] = False
            for index in np.flatnonzero(are_usable).tolist():
                word = self._model_prefix + keys[index].replace(" ", _BYTE_LEVEL_SPACE)
                ids[index] = [token.id for token in self._model.tokenize(word)]
            self._normalized(keys, odd, ids)
        if odd:
            are_usable[odd] = False
            are_usable[list(self._independent(keys, {index: ids[index] for index in odd}))] = True
        counts = np.fromiter(map(len, ids), np.int64, len(ids))
        return np.fromiter(chain.from_iterable(ids), np.uint32, int(counts.sum())), counts, are_usable

    def _normalized(self, keys: list[str], chosen: Sequence[int], ids: list[list[int]]) -> None:
        """Fills in the ids of the chosen keys, by the whole of the tokenizer."""
        for start in range(0, len(chosen), _GROUP_WORDS):
            group = chosen[start : start + _GROUP_WORDS]
            # Given as words, each key is a text of its own, and its tokens have its number.
            words = [keys[index] for index in group]
            encoding = self._tokenizer.encode(words, is_pretokenized=True, add_special_tokens=False)
            found, numbers = encoding.ids, np.array(encoding.word_ids, dtype=np.int64)
            ends = np.cumsum(np.bincount(numbers, minlength=len(group))).tolist()
            for index, first, end in zip(group, [0, *ends], ends, strict=False):
                ids[index] = found[first:end]

    def _independent(self, keys: list[str], own: dict[int, list[int]]) -> Iterator[int]:
        """Those of the keys in `own` (key number -> ids) that may be looked up."""
        inner: list[int] = []
        for index in own:
            key = keys[index]
            chunk = key.removeprefix(" ")
            if joins_neighbours(chunk) or (self._has_space_mark and SPACE_MARK in chunk):
                continue
            if self._keeps_space and key == chunk:  # the first of a sentence
                if self._ids(f"{key} {_NEIGHBOUR}") == own[index] + self._next_neighbour:
                    yield index
            else:
                inner.append(index)
        for start in range(0, len(inner), _TRIAL_WORDS):
            yield from self._tried(keys, own, inner[start : start + _TRIAL_WORDS])

    def _tried(self, keys: list[str], own: dict[int, list[int]], chosen: list[int]) -> Iterator[int]:
        """Those of `chosen` that keep their ids between neighbours: all at once, else by halves."""
        before = "" if self._keeps_space else " "
        text = _NEIGHBOUR + "".join(f"{before}{keys[index]} {_NEIGHBOUR}" for index in chosen)
        expected = chain(
            self._first_neighbour, *(chain(own[index], self._next_neighbour) for index in chosen)
        )
        if self._ids(text) == list(expected):
            yield from chosen
        elif len(chosen) > 1:
            half = len(chosen) // 2
            yield from self._tried(keys, own, chosen[:half])
            yield from self._tried(keys, own, chosen[half:])

    def _ids(self, text: str) -> list[int]:
        (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        ids: list[int] = encoding.ids
        return ids
