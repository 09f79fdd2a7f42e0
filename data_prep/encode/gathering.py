"""The compiled loops that copy the ids of looked-up words into one row.

`values_at` int64, by entry, holds where a word's ids begin in `values` uint32, and in its last `COUNT_BITS` how many
they are; -1 where a word has no ids of its own.
"""

import numpy as np

from data_prep.encode.compiling import compiled

COUNT_BITS = 16


@compiled
def count_tokens(words: np.ndarray, ends: np.ndarray, values_at: np.ndarray) -> np.ndarray:
    """Tokens of each sentence, int64; -1 where a word has no ids of its own."""
    lengths = np.zeros(len(ends), dtype=np.int64)
    word = 0
    for sentence in range(len(ends)):
        total = 0
        while word < ends[sentence]:
            entry = words[word]
            if entry < 0 or values_at[entry] < 0:
                total = -1
                word = ends[sentence]
            else:
                total += values_at[entry] & ((1 << COUNT_BITS) - 1)
                word += 1
        lengths[sentence] = total
    return lengths


@compiled
def gather(
    words: np.ndarray, ends: np.ndarray, values_at: np.ndarray, values: np.ndarray, skipped: np.ndarray,
    starts: np.ndarray, tokens: np.ndarray,
) -> None:  # fmt: skip
    """Write the ids of each sentence that is not `skipped` into `tokens`, from `starts` on."""
    first_word = 0
    for sentence in range(len(ends)):
        if not skipped[sentence]:
            at = starts[sentence]
            for word in range(first_word, ends[sentence]):
                packed = values_at[words[word]]
                first = packed >> COUNT_BITS
                for value in range(first, first + (packed & ((1 << COUNT_BITS) - 1))):
                    tokens[at] = values[value]
                    at += 1
        first_word = ends[sentence]
