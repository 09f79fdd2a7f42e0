"""The compiled loops that copy the tokens of looked-up words into one row, and take ids and word starts apart.

A token is its id, and the bit `BEGINS_WORD` where it begins a word.

`values_at` int64, by entry, holds where a word's tokens begin in `values` uint32, and in its last `COUNT_BITS` how many
they are; -1 where a word has no tokens of its own.
"""

import numpy as np

from pretrain.compiled import compiled

COUNT_BITS = 16
BEGINS_WORD = np.uint32(1 << 31)


@compiled
def gather(
    words: np.ndarray, ends: np.ndarray, skip: np.ndarray, values_at: np.ndarray, values: np.ndarray,
    lengths: np.ndarray, tokens: np.ndarray,
) -> int:  # fmt: skip
    """Writes what `values` holds for the words of each sentence to `tokens`, and how many they are to `lengths`: -1,
    and no tokens, where `skip` says so or a word has none of its own. The first token of a sentence begins a word.
    The number of tokens; -1 where there is no room for them.
    """
    num_tokens = word = 0
    for sentence in range(len(ends)):
        first, is_whole = num_tokens, skip[sentence]
        while word < ends[sentence] and not is_whole:
            entry = words[word]
            packed = values_at[entry] if entry >= 0 else -1
            if packed >= 0:
                start = packed >> COUNT_BITS
                end = start + (packed & ((1 << COUNT_BITS) - 1))
                if num_tokens + end - start > len(tokens):
                    return -1
                for value in range(start, end):
                    tokens[num_tokens] = values[value]
                    num_tokens += 1
                word += 1
            else:
                is_whole = True
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
