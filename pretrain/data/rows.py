"""Packed rows as token arrays: [CLS] A [SEP] B [SEP] of each sample, one after another, then padding.

1. every row is a sequence of runs: [CLS] A [SEP], then B [SEP], for each of its samples, and padding at last;
2. within a run everything is constant or counts up by one, so that arrays over all tokens come from repeating
   one value per run;
3. special tokens are written over what the runs read in their places; then the selected tokens are masked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from pretrain.data.mask import Masking
from pretrain.data.options import SamplingOptions
from pretrain.data.pack import PackedRows
from pretrain.data.samples import SamplePlan, ranges, starts_of


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
    """How the rows of one window become arrays. `tokens`: those of the window, of any unsigned type."""

    tokens: np.ndarray
    plan: SamplePlan
    rows: PackedRows
    masking: Masking
    special_ids: Mapping[str, int]

    def arrays(self, first_row: int, last_row: int) -> RowArrays:
        """Rows [first_row, last_row) of the window."""
        offsets = self.rows.offsets[first_row : last_row + 1]
        samples = self.rows.samples[offsets[0] : offsets[-1]]
        a_length, b_length = self.plan.a_length[samples], self.plan.b_length[samples]
        runs = _Runs.of(offsets - offsets[0], a_length, b_length, self.masking.options)
        input_ids = self._unmasked(samples, runs)
        index, positions = self.masking.select(samples, a_length, b_length)
        masked_positions = runs.start[index] + positions
        masked_labels = input_ids[masked_positions]
        inputs, is_mask = self.masking.replace(samples[index], positions, masked_labels)
        input_ids[masked_positions] = inputs
        position_ids = runs.places - runs.spread(runs.start, runs.start, 0)
        position_ids[runs.padding] = 0
        return RowArrays(
            input_ids=input_ids,
            token_type_ids=runs.spread(0, 1, 0),
            position_ids=position_ids,
            sample_ids=runs.spread(runs.number_in_row, runs.number_in_row, 0, np.int32),
            segment_lengths=runs.segment_lengths,
            masked_positions=masked_positions,
            masked_labels=masked_labels,
            masked_is_mask=is_mask,
            cls_positions=runs.start,
            nsp_labels=self.plan.nsp_label[samples],
        )

    def _unmasked(self, samples: np.ndarray, runs: "_Runs") -> np.ndarray:
        """The input ids before masking."""
        to_a = self.plan.a_start[samples] - 1 - runs.start
        to_b = self.plan.b_start[samples] - runs.tail_start
        # Special tokens and padding read a neighbour's token here, or the window's last, and are then set.
        source = runs.places + runs.spread(to_a, to_b, 0)
        input_ids = self.tokens.take(source, mode="clip").astype(np.int64)
        input_ids[runs.start] = self.special_ids["cls"]
        input_ids[runs.tail_start - 1] = self.special_ids["sep"]
        input_ids[runs.end - 1] = self.special_ids["sep"]
        input_ids[runs.padding] = self.special_ids["pad"]
        return input_ids


@dataclass(frozen=True)
class _Runs:
    """Where the runs of some rows lie: per sample a head, [CLS] A [SEP], and a tail, B [SEP] (empty without
    NSP); per row its padding, which may be empty.

    `head`, `after`: run numbers of the heads [samples] and paddings [rows]; a tail follows its head.
    `lengths` [runs]: tokens. `start`, `tail_start`, `end` [samples] and `padding` are places of tokens.
    """

    head: np.ndarray
    after: np.ndarray
    lengths: np.ndarray
    start: np.ndarray
    tail_start: np.ndarray
    end: np.ndarray
    number_in_row: np.ndarray
    places: np.ndarray
    padding: np.ndarray

    @classmethod
    def of(
        cls, offsets: np.ndarray, a_length: np.ndarray, b_length: np.ndarray, options: SamplingOptions
    ) -> Self:
        """`offsets` [rows + 1]: the first of the samples in each row, from 0."""
        row = np.arange(len(offsets) - 1)
        row_of_sample = np.repeat(row, offsets[1:] - offsets[:-1])
        number = np.arange(len(a_length))
        head, after = 2 * number + row_of_sample, 2 * offsets[1:] + row
        head_length = a_length + 2
        tail_length = b_length + (options.num_special_tokens - 2)
        row_ends = starts_of(head_length + tail_length)[offsets]
        used = row_ends[1:] - row_ends[:-1]
        lengths = np.empty(2 * len(number) + len(row), dtype=np.int64)
        lengths[head], lengths[head + 1], lengths[after] = head_length, tail_length, options.seq_len - used
        begins = starts_of(lengths)
        return cls(
            head=head,
            after=after,
            lengths=lengths,
            start=begins[head],
            tail_start=begins[head + 1],
            end=begins[head + 2],
            number_in_row=number - offsets[row_of_sample] + 1,
            places=np.arange(begins[-1]),
            padding=ranges(begins[after], lengths[after]),
        )

    @property
    def segment_lengths(self) -> np.ndarray:
        """Tokens of each sample and each padding that is not empty, in order."""
        sizes = self.lengths.copy()
        sizes[self.head] += sizes[self.head + 1]
        sizes[self.head + 1] = 0
        return sizes[sizes > 0]

    def spread(
        self,
        head: np.ndarray | int,
        tail: np.ndarray | int,
        padding: np.ndarray | int,
        dtype: type[np.signedinteger] = np.int64,
    ) -> np.ndarray:
        """Values per sample, sample and row, repeated over the tokens of their runs."""
        values = np.empty(len(self.lengths), dtype=dtype)
        values[self.head], values[self.head + 1], values[self.after] = head, tail, padding
        return np.repeat(values, self.lengths)
