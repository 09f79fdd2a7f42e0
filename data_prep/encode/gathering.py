"""The compiled loop that copies the ids of looked-up words into one row.

`values_at` int64, by entry, holds where a word's ids begin in `values` uint32, and in its last `COUNT_BITS` how many
they are; -1 where a word has no ids of its own.
"""

import numpy as np

from pretrain.compiled import compiled

COUNT_BITS = 16


@compiled
def gather(
    words: np.ndarray, ends: np.ndarray, skip: np.ndarray, values_at: np.ndarray, values: np.ndarray,
    lengths: np.ndarray, ids: np.ndarray,
) -> int:  # fmt: skip
    """Writes the ids of the words of each sentence to `ids`, and how many they are to `lengths`: -1, and no ids, where
    `skip` says so or a word has no ids of its own. The number of ids; -1 where there is no room for them.
    """
    num_ids = word = 0
    for sentence in range(len(ends)):
        first, is_whole = num_ids, skip[sentence]
        while word < ends[sentence] and not is_whole:
            entry = words[word]
            packed = values_at[entry] if entry >= 0 else -1
            if packed >= 0:
                start = packed >> COUNT_BITS
                end = start + (packed & ((1 << COUNT_BITS) - 1))
                if num_ids + end - start > len(ids):
                    return -1
                for value in range(start, end):
                    ids[num_ids] = values[value]
                    num_ids += 1
                word += 1
            else:
                is_whole = True
        word = ends[sentence]
        if is_whole:
            num_ids = first
        lengths[sentence] = -1 if is_whole else num_ids - first
    return num_ids
