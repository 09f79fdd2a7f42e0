"""A window of the stream once it is planned: what its rows hold is known, the text is read when rows are made.

`Split` and `Block` say what sampling reads of a token store.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from pretrain.data.mask import Masking, count_masked
from pretrain.data.options import SamplingOptions
from pretrain.data.pack import PackedRows
from pretrain.data.rows import RowLayout
from pretrain.data.samples import NO_LABEL, BlockLengths, SamplePlan, starts_of


class Block(BlockLengths, Protocol):
    """A block of the token store."""

    @property
    def tokens(self) -> np.ndarray: ...
    def word_starts(self) -> np.ndarray: ...  # asked for by whole-word masking only


class Split(Protocol):
    """A split of the token store, read block by block."""

    @property
    def name(self) -> str: ...
    @property
    def num_documents(self) -> int: ...
    @property
    def num_sentences(self) -> int: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def num_blocks(self) -> int: ...
    def block(self, index: int) -> Block: ...


@dataclass(frozen=True)
class RowCounts:
    """Sums over the rows before each row of a window, [rows + 1] int64 each.

    `attended`: over all real tokens, of the tokens that each attends to: those of its sample.
    """

    attended: np.ndarray
    masked: np.ndarray
    pairs: np.ndarray
    samples: np.ndarray
    tokens: np.ndarray

    @classmethod
    def of(cls, plan: SamplePlan, rows: PackedRows, options: SamplingOptions) -> "RowCounts":
        def before_rows(per_sample: np.ndarray) -> np.ndarray:
            return starts_of(per_sample[rows.samples])[rows.offsets]

        lengths = plan.text_lengths + options.num_special_tokens
        return cls(
            attended=before_rows(lengths.astype(np.int64) ** 2),
            masked=before_rows(count_masked(plan.text_lengths, options.mask_probability)),
            pairs=before_rows(plan.nsp_label != NO_LABEL),
            samples=rows.offsets,
            tokens=before_rows(lengths),
        )


@dataclass(frozen=True)
class PlannedWindow:
    """A window of an epoch: its samples, its rows and, once rows are made of them, its tokens.

    `source`: the epoch and window that the samples are of; others than its own where samples are static.
    """

    epoch: int
    window: int
    source: tuple[int, int]
    split: Split
    blocks: Sequence[int]
    plan: SamplePlan
    rows: PackedRows
    counts: RowCounts
    masking: Masking
    special_ids: Mapping[str, int]

    @cached_property
    def layout(self) -> RowLayout:
        """Copies the window's tokens together, one block mapped at a time."""
        parts = (self.split.block(index).tokens for index in self.blocks)
        first = next(parts)
        tokens = np.empty(self.plan.num_window_tokens, dtype=first.dtype)
        end = len(first)
        tokens[:end] = first
        for part in parts:
            tokens[end : end + len(part)] = part
            end += len(part)
        return RowLayout(
            tokens, self.plan, self.rows, self.masking, self.special_ids, word_starts=self._word_starts()
        )

    def blocks_of(self, samples: np.ndarray) -> np.ndarray:
        """The store's block that each sample begins in."""
        found: np.ndarray = np.array(self.blocks)[
            np.searchsorted(self._block_starts, self.plan.a_start[samples], side="right") - 1
        ]
        return found

    @cached_property
    def _block_starts(self) -> np.ndarray:
        """[blocks + 1]: the first of the window's tokens in each block."""
        return starts_of(np.array([len(self.split.block(index).tokens) for index in self.blocks]))

    def _word_starts(self) -> np.ndarray | None:
        """Of the window's tokens, where whole words are masked."""
        if not self.masking.options.whole_words:
            return None
        return np.concatenate([self.split.block(index).word_starts() for index in self.blocks])
