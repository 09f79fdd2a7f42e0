"""Dynamic masking with an exact number of selected tokens in every sample (Devlin et al. 2018, section 3.1).

Which tokens are selected and what becomes of them are draws keyed by (sample, position), numbered
`sample << POSITION_BITS | position`: the rows asked for are masked without touching any other, and alike
however the stream is cut. The number of selected tokens follows from the sample's length alone, so that the
masked tokens of a global batch are known before it is made.

1. every text token draws a number; in each sample the tokens with the smallest are selected;
2. every selected token draws again: it becomes [MASK], a random token of the vocabulary, or stays.

With whole words, words are drawn instead (the draw of a word is that of its first token) and selected with all
their tokens in the order of their draws. A word longer than what is still to be selected is passed over, as in
BERT's whole-word masking. Where that leaves some tokens to be selected, they are taken from the first word that
was passed over, each of its tokens alike, so that at most one word of a sample is selected in part and the count
stays exact; text without white space, a single word to byte-level BPE, is thus masked token by token. Longer
words are selected less often than short ones, as in BERT. Step 2 draws for each token, as BERT does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pretrain.data.kernels import replace_tokens, select_tokens, select_words
from pretrain.data.options import SamplingOptions
from pretrain.data.samples import SamplePlan

_REPLACE = 1 << 63
_PART_OF_WORD = 1 << 62


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
        self, plan: SamplePlan, samples: np.ndarray, word_starts: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(index into `samples`, position in the sample) of each selected token, int64, in ascending order.

        A lies at positions 1.. of the sample, B after the [SEP] behind A; every sample has text.
        `word_starts`: for whole words, whether each token of the window begins one; the first token of A and of
        B always does.
        """
        lengths = plan.a_length[samples] + plan.b_length[samples]
        counts = count_masked(lengths, self.options.mask_probability)
        num_selected = int(counts.sum())
        # The last token that is looked at is written behind the last that is selected.
        index, positions = np.empty((2, num_selected + 1), dtype=np.int64)
        draw_key = np.uint64(self.draw_key)
        if word_starts is None:
            select_tokens(draw_key, samples, (plan.a_length, plan.b_length), counts, index, positions)
        else:
            keys = (draw_key, np.uint64(self.draw_key ^ _PART_OF_WORD))
            select_words(keys, samples, plan.spans, word_starts, counts, index, positions)
        return index[:num_selected], positions[:num_selected]

    def replace(
        self, samples: np.ndarray, positions: np.ndarray, tokens: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(input ids, is [MASK]) of selected `tokens` at `positions` of the window's `samples`."""
        masked, replaced = self.options.mask_token_share, self.options.random_token_share
        inputs, is_mask = tokens.copy(), np.empty(len(tokens), dtype=np.bool_)
        replace_tokens(
            np.uint64(self.draw_key ^ _REPLACE),
            samples,
            positions,
            np.uint64(round(masked * 2**32)),
            np.uint64(round((masked + replaced) * 2**32)),
            self.mask_id,
            self.ordinary_ids,
            inputs,
            is_mask,
        )
        return inputs, is_mask


def ordinary_ids(vocab_size: int, special_ids: Sequence[int]) -> np.ndarray:
    """All token ids but the special ones, int64."""
    return np.setdiff1d(np.arange(vocab_size), special_ids)
