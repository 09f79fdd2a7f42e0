"""The compiled loop that copies the tokens of looked-up words into one row.

`values_at` int64, by entry, holds where a word's tokens begin in `values` uint32, and in its last `COUNT_BITS` how many
they are; -1 where a word has no tokens of its own.
"""

import numpy as np

from pretrain.compiled import compiled

COUNT_BITS = 16


@compiled
def gather(
    words: np.ndarray, ends: np.ndarray, skip: np.ndarray, values_at: np.ndarray, values: np.ndarray,
    lengths: np.ndarray, tokens: np.ndarray,
) -> int:  # fmt: skip
    """Writes what `values` holds for the words of each sentence to `tokens`, and how many they are to `lengths`: -1,
    and no tokens, where `skip` says so or a word has none of its own. The number of tokens; -1 where there is no
    room for them.
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
        lengths[sentence] = -1 if is_whole else num_tokens - first
    return num_tokens
