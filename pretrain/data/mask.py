"""Dynamic masking with an exact number of selected tokens in every sample (Devlin et al. 2018, section 3.1).

Which tokens are selected and what becomes of them are draws keyed by (sample, position), numbered
`sample << POSITION_BITS | position`: the rows asked for are masked without touching any other, and alike
however the stream is cut. The number of selected tokens follows from the sample's length alone, so that the
masked tokens of a global batch are known before it is made.

1. every text token draws a number; in each sample the tokens with the smallest are selected;
2. every selected token draws again: it becomes [MASK], a random token of the vocabulary, or stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pretrain.data.options import POSITION_BITS, SamplingOptions
from pretrain.data.samples import ranges
from pretrain.rng import hash64

# Sort key of a token: index of its sample (16 bits), draw (32 bits), position (16 bits).
_HALF = np.uint64(32)
_LOW_HALF = np.uint64((1 << 32) - 1)
_POSITION = np.uint64(POSITION_BITS)
_INDEX = np.uint64(32 + POSITION_BITS)
_POSITIONS = np.uint64((1 << POSITION_BITS) - 1)
# As many as fit the processor's cache; a sample has at least one, so that the index fits its bits.
_TOKENS_AT_ONCE = 1 << 15
_REPLACE = 1 << 63


def count_masked(text_lengths: np.ndarray, mask_probability: float) -> np.ndarray:
    """Selected tokens of samples with that many text tokens: max(1, floor(p * length + 0.5)), int64."""
    return np.maximum(1, np.floor(mask_probability * text_lengths + 0.5).astype(np.int64))


@dataclass(frozen=True)
class Masking:
    """The keyed masking of one window's samples.

    `ordinary_ids`: the tokens that a random replacement is drawn from, all but the special ones.
    """

    options: SamplingOptions
    mask_id: int
    ordinary_ids: np.ndarray
    draw_key: int

    def select(
        self, samples: np.ndarray, a_length: np.ndarray, b_length: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(index into `samples`, position in the sample) of each selected token, in ascending order.

        A lies at positions 1.. of the sample, B after the [SEP] behind A; every sample has text.
        """
        if not len(samples):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        ends = np.cumsum(a_length + b_length)
        selected = []
        low = 0
        while low < len(samples):
            before = int(ends[low - 1]) if low else 0
            high = max(low + 1, int(np.searchsorted(ends, before + _TOKENS_AT_ONCE, side="right")))
            keys = self._smallest(samples[low:high], a_length[low:high], b_length[low:high])
            selected.append(keys + (np.uint64(low) << _POSITION))
            low = high
        keys = np.concatenate(selected)
        return (keys >> _POSITION).astype(np.int64), (keys & _POSITIONS).astype(np.int64)

    def replace(
        self, samples: np.ndarray, positions: np.ndarray, tokens: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(input ids, is [MASK]) of selected `tokens` at `positions` of the window's `samples`."""
        draws = hash64(self.draw_key ^ _REPLACE, samples << POSITION_BITS | positions)
        share, number = draws & _LOW_HALF, draws >> _HALF
        masked, replaced = self.options.mask_token_share, self.options.random_token_share
        is_mask = share < np.uint64(round(masked * 2**32))
        is_random = np.flatnonzero(~is_mask & (share < np.uint64(round((masked + replaced) * 2**32))))
        inputs = tokens.copy()
        inputs[is_mask] = self.mask_id
        inputs[is_random] = self.ordinary_ids[number[is_random] * np.uint64(len(self.ordinary_ids)) >> _HALF]
        return inputs, is_mask

    def _smallest(self, samples: np.ndarray, a_length: np.ndarray, b_length: np.ndarray) -> np.ndarray:
        """`index << POSITION_BITS | position` of the selected tokens, uint64, ascending."""
        text_lengths = a_length + b_length
        starts = np.cumsum(text_lengths) - text_lengths
        # A's tokens lie one place after the [CLS], B's two: in the list of all text tokens, the position of
        # each is its place plus the shift of its span.
        spans = np.stack([a_length, b_length], axis=1).ravel()
        shifts = np.stack([1 - starts, 2 - starts], axis=1).astype(np.uint64)
        index = np.arange(len(samples), dtype=np.uint64)[:, None]
        places = np.arange(int(text_lengths.sum()), dtype=np.uint64)
        sample = samples.astype(np.uint64)[:, None]
        counters = places + np.repeat((shifts + (sample << _POSITION)).ravel(), spans)
        keys = places + np.repeat((shifts + (index << _INDEX)).ravel(), spans)
        keys |= hash64(self.draw_key, counters) >> _HALF << _POSITION
        keys.sort()
        chosen = keys[ranges(starts, count_masked(text_lengths, self.options.mask_probability))]
        return np.sort(chosen >> _INDEX << _POSITION | chosen & _POSITIONS)


def ordinary_ids(vocab_size: int, special_ids: Sequence[int]) -> np.ndarray:
    """All token ids but the special ones, int64."""
    return np.setdiff1d(np.arange(vocab_size), special_ids)
