"""What a word gives, and the compiled loops that copy the tokens of looked-up words into one row and take ids and word
starts apart.

A token is its id, and the bit `BEGINS_WORD` where it begins a word. What a word gives is a uint64, by its two top bits:

- 01: up to three tokens themselves (for ids below 2^19), 20 bits each from the lowest on, and above them their number;
- 10: where more of them begin in `values`, and in the last 16 bits how many they are;
- 11: `PENDING` and the number of a word that is new in this text, of which `pending` says what it gives;
  or `NO_TOKENS`: none of its own, so that its sentence goes through the tokenizer as a whole.
"""

from typing import Any

import numpy as np

from pretrain.compiled import compiled

BEGINS_WORD = np.uint32(1 << 31)
PENDING, NO_TOKENS = np.uint64(3 << 62), np.uint64((1 << 64) - 1)
_HERE, _THERE, _KIND = np.uint64(1 << 62), np.uint64(2 << 62), np.uint64(3 << 62)
_NUMBER_BITS = np.uint64(16)
_NUMBER_MASK, _AT_MASK = np.uint64((1 << 16) - 1), np.uint64((1 << 46) - 1)
_TOKEN_BITS, _COUNT_AT, _COUNT_MASK = np.uint64(20), np.uint64(60), np.uint64(3)
_TOKEN_MASK, _ID_MASK, _MARK_MASK = np.uint64((1 << 20) - 1), np.uint64((1 << 19) - 1), np.uint64(1 << 19)
_MARK_SHIFT = np.uint64(12)  # from bit 19 to bit 31
_MOST_HERE = 3
_MOST_TOKENS = 1 << 16


def given_by(tokens: np.ndarray, counts: np.ndarray, num_values: int) -> tuple[np.ndarray, np.ndarray]:
    """What words give, uint64 [words], and the tokens to be put behind the first `num_values` of `values`.

    tokens: uint32 of all the words; counts: int64 [words] of each.
    """
    starts = np.cumsum(counts) - counts
    narrow = (tokens.astype(np.uint64) >> _MARK_SHIFT & _MARK_MASK) | (tokens & np.uint64(_ID_MASK))
    is_narrow = np.append((tokens & ~BEGINS_WORD) <= _ID_MASK, True)
    narrow = np.append(narrow, np.uint64(0))
    given = _HERE | counts.astype(np.uint64) << _COUNT_AT
    is_here = counts <= _MOST_HERE
    for place in range(_MOST_HERE):
        at = np.where(counts > place, starts + place, len(tokens))
        given |= narrow[at] << np.uint64(place * 20)
        is_here &= is_narrow[at]
    there = counts[~is_here]
    begins = np.uint64(num_values) + (np.cumsum(there) - there).astype(np.uint64)
    given[~is_here] = _THERE | begins << _NUMBER_BITS | there.astype(np.uint64)
    given[counts >= _MOST_TOKENS] = NO_TOKENS
    return given, tokens[np.repeat(~is_here, counts)]


@compiled
def gather(
    words: np.ndarray, ends: np.ndarray, skip: np.ndarray, pending: np.ndarray, values: np.ndarray,
    lengths: np.ndarray, tokens: np.ndarray,
) -> int:  # fmt: skip
    """Writes the tokens that the words of each sentence give to `tokens`, and how many they are to `lengths`: -1, and
    no tokens, where `skip` says so or a word has none of its own. The first token of a sentence begins a word. The
    number of tokens; -1 where there is no room for them.
    """
    num_tokens: Any = 0
    word = 0
    for sentence in range(len(ends)):
        first, is_whole = num_tokens, skip[sentence]
        while word < ends[sentence] and not is_whole:
            given = words[word]
            if given >= PENDING and given != NO_TOKENS:
                given = pending[np.int64(given & _AT_MASK)]
            kind = given & _KIND
            if num_tokens + _MOST_HERE > len(tokens):
                return -1
            if kind == _HERE:
                # All three, whether they are there or not: what decides nothing is not foretold wrongly.
                for place in range(_MOST_HERE):
                    token = given >> (np.uint64(place) * _TOKEN_BITS)
                    tokens[num_tokens + place] = (token & _ID_MASK) | (token & _MARK_MASK) << _MARK_SHIFT
                num_tokens += np.int64(given >> _COUNT_AT & _COUNT_MASK)
            elif kind == _THERE:
                start = np.int64(given >> _NUMBER_BITS & _AT_MASK)
                end = start + np.int64(given & _NUMBER_MASK)
                if num_tokens + end - start > len(tokens):
                    return -1
                for value in range(start, end):
                    tokens[num_tokens] = values[value]
                    num_tokens += 1
            else:
                is_whole = True
            word += 1
        word = ends[sentence]
        if is_whole:
            num_tokens = first
        elif num_tokens > first:
            tokens[first] |= BEGINS_WORD
        lengths[sentence] = -1 if is_whole else num_tokens - first
    return num_tokens


@compiled
def interleave(
    lengths: np.ndarray, is_chosen: np.ndarray, chosen: np.ndarray, others: np.ndarray, tokens: np.ndarray
) -> None:
    """Writes to `tokens` those of each sentence, from `chosen` where `is_chosen` says so, else from `others`."""
    at = num_chosen = num_others = 0
    for sentence in range(len(lengths)):
        for _ in range(lengths[sentence]):
            if is_chosen[sentence]:
                tokens[at] = chosen[num_chosen]
                num_chosen += 1
            else:
                tokens[at] = others[num_others]
                num_others += 1
            at += 1


@compiled
def take_apart(
    tokens: np.ndarray, is_forbidden: np.ndarray, unk_id: np.uint32, ids: np.ndarray, word_starts: np.ndarray
) -> tuple[int, int]:
    """Writes each token's id to `ids` and to `word_starts` (bool) whether it begins a word: (number of unknown ids,
    number of them that took the place of an id for which `is_forbidden`, bool by id as far as any is, is true).
    """
    num_unknown = num_replaced = 0
    for i in range(len(tokens)):
        token = tokens[i]
        token_id = token & ~BEGINS_WORD
        if token_id < len(is_forbidden) and is_forbidden[token_id]:
            token_id = unk_id
            num_replaced += 1
        num_unknown += token_id == unk_id
        ids[i] = token_id
        word_starts[i] = token >= BEGINS_WORD
    return num_unknown, num_replaced
