"""Packed rows as token arrays: [CLS] A [SEP] B [SEP] of each sample, one after another, then padding.

1. the rows are written sample by sample;
2. the tokens to predict are selected, remembered as labels, and replaced.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pretrain.data.kernels import lay_out
from pretrain.data.mask import Masking
from pretrain.data.pack import PackedRows
from pretrain.data.samples import SamplePlan


@dataclass(frozen=True)
class RowArrays:
    """Rows laid end to end and what is to be learned from them; positions are indices into that line.

    All int64 but for `sample_ids`, int32 (0 = padding, 1.. = number of the sample in its row), and
    `masked_is_mask`, bool. `segment_lengths` covers every token: samples and, where there is any, padding.
    """

    input_ids: np.ndarray
    token_type_ids: np.ndarray
    position_ids: np.ndarray
    sample_ids: np.ndarray
    segment_lengths: np.ndarray
    masked_positions: np.ndarray
    masked_labels: np.ndarray
    masked_is_mask: np.ndarray
    cls_positions: np.ndarray
    nsp_labels: np.ndarray


@dataclass(frozen=True)
class RowLayout:
    """How the rows of one window become arrays. `tokens`: those of the window, of any unsigned type;
    `word_starts`: for whole-word masking, whether each of them begins a word."""

    tokens: np.ndarray
    plan: SamplePlan
    rows: PackedRows
    masking: Masking
    special_ids: Mapping[str, int]
    word_starts: np.ndarray | None = None

    def arrays(self, first_row: int, last_row: int) -> RowArrays:
        """Rows [first_row, last_row) of the window."""
        offsets = self.rows.offsets[first_row : last_row + 1]
        samples = self.rows.samples[offsets[0] : offsets[-1]]
        shape = (last_row - first_row, self.masking.options.seq_len)
        input_ids, token_type_ids, position_ids = (np.empty(shape, dtype=np.int64) for _ in range(3))
        sample_ids = np.empty(shape, dtype=np.int32)
        starts = np.empty(len(samples), dtype=np.int64)
        segment_lengths = np.empty(len(samples) + shape[0], dtype=np.int64)
        num_segments = lay_out(
            self.tokens,
            samples,
            offsets[1:] - offsets[0],
            self.plan.spans,
            (self.special_ids["cls"], self.special_ids["sep"], self.special_ids["pad"]),
            (input_ids, token_type_ids, position_ids, sample_ids),
            starts,
            segment_lengths,
        )
        index, positions = self.masking.select(self.plan, samples, self.word_starts)
        masked_positions = starts[index] + positions
        flat_ids = input_ids.ravel()
        masked_labels = flat_ids[masked_positions]
        inputs, is_mask = self.masking.replace(samples[index], positions, masked_labels)
        flat_ids[masked_positions] = inputs
        return RowArrays(
            input_ids=flat_ids,
            token_type_ids=token_type_ids.ravel(),
            position_ids=position_ids.ravel(),
            sample_ids=sample_ids.ravel(),
            segment_lengths=segment_lengths[:num_segments],
            masked_positions=masked_positions,
            masked_labels=masked_labels,
            masked_is_mask=is_mask,
            cls_positions=starts,
            nsp_labels=self.plan.nsp_label[samples],
        )
