"""A micro-batch as the model takes it: torch tensors over packed rows, made from the arrays of `rows`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from pretrain.data.options import POSITION_BITS
from pretrain.data.rows import RowArrays
from pretrain.data.samples import NO_LABEL, starts_of
from pretrain.rng import hash64

# Counts vary little from batch to batch; rounded up, the shapes seldom change.
_MASKED_MULTIPLE = 64
_PAIRS_MULTIPLE = 16


@dataclass(frozen=True)
class Batch:
    """Rows of packed samples; int64 tensors unless said. Positions are flat indices into rows * seq_len.

    `input_ids`, `token_type_ids`, `position_ids` [rows, seq_len]: positions start at 0 in every sample.
    `sample_ids` [rows, seq_len] int32: 0 = padding, 1.. = number of the sample within its row; attention is
    allowed iff equal. `cu_seqlens` [segments + 1] int32: starts of the samples and runs of padding in the
    flattened rows, then their end; `max_seqlen`: tokens of the longest.
    `masked_positions`, `masked_labels` [n]: selected tokens and their original ids; `masked_is_mask` [n]
    bool: the input there is [MASK]. `cls_positions`, `nsp_labels` [p]: each sample's [CLS]; 0 = B follows A,
    1 = B is random. n and p are rounded up to multiples of 64 and 16 with position 0 and label -100; without
    NSP all NSP labels are -100.

    The counts leave the rounding out; `num_tokens` counts real tokens, with special ones, without padding.
    """

    input_ids: Tensor
    token_type_ids: Tensor
    position_ids: Tensor
    sample_ids: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    masked_positions: Tensor
    masked_labels: Tensor
    masked_is_mask: Tensor
    cls_positions: Tensor
    nsp_labels: Tensor
    num_masked: int
    num_pairs: int
    num_samples: int
    num_tokens: int

    @classmethod
    def from_arrays(cls, parts: Sequence[RowArrays], seq_len: int) -> Self:
        """The rows of all parts, one after another."""
        rows = parts[0] if len(parts) == 1 else joined(parts)
        shape = (-1, seq_len)
        num_masked, num_samples = len(rows.masked_positions), len(rows.cls_positions)
        return cls(
            input_ids=torch.from_numpy(rows.input_ids).view(shape),
            token_type_ids=torch.from_numpy(rows.token_type_ids).view(shape),
            position_ids=torch.from_numpy(rows.position_ids).view(shape),
            sample_ids=torch.from_numpy(rows.sample_ids).view(shape),
            cu_seqlens=torch.from_numpy(starts_of(rows.segment_lengths).astype(np.int32)),
            max_seqlen=int(rows.segment_lengths.max()),
            masked_positions=_rounded_up(rows.masked_positions, _MASKED_MULTIPLE, 0),
            masked_labels=_rounded_up(rows.masked_labels, _MASKED_MULTIPLE, NO_LABEL),
            masked_is_mask=_rounded_up(rows.masked_is_mask, _MASKED_MULTIPLE, False),
            cls_positions=_rounded_up(rows.cls_positions, _PAIRS_MULTIPLE, 0),
            nsp_labels=_rounded_up(rows.nsp_labels, _PAIRS_MULTIPLE, NO_LABEL),
            num_masked=num_masked,
            num_pairs=int((rows.nsp_labels != NO_LABEL).sum()),
            num_samples=num_samples,
            num_tokens=int(np.count_nonzero(rows.sample_ids)),
        )

    def to(self, device: torch.device | str) -> Self:
        """The same batch with its tensors on `device`."""
        return self._with_tensors(lambda value: value.to(device, non_blocking=True))

    def pinned(self) -> Self:
        """The same batch with its tensors where `to` can copy them to a GPU without waiting for it."""
        return self._with_tensors(lambda value: value.pin_memory())

    def _with_tensors(self, change: Callable[[Tensor], Tensor]) -> Self:
        changed: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                changed[field.name] = change(value)
        return replace(self, **changed)

    def shuffled(self, draw_key: int) -> Self:
        """The batch with the unselected text tokens of each sample shuffled, for evaluation.

        Special tokens, padding and selected positions stay, and so do all labels: what is lost is the order
        of the context. The order is keyed by the sample's own tokens, so that it does not depend on the
        batch that the sample is in.
        """
        tokens = self.input_ids.flatten().cpu().numpy()
        position = self.position_ids.flatten().cpu().numpy()
        starts = self.cu_seqlens.cpu().numpy()
        segment = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        contents = np.add.reduceat(hash64(draw_key, tokens << POSITION_BITS | position), starts[:-1])
        movable = self._context_places()
        draws = hash64(draw_key, contents[segment[movable]] + position[movable].astype(np.uint64))
        order = np.lexsort((draws, segment[movable]))
        shuffled = tokens.copy()
        shuffled[movable] = tokens[movable[order]]
        input_ids = torch.from_numpy(shuffled).view_as(self.input_ids)
        return replace(self, input_ids=input_ids.to(self.input_ids.device))

    def _context_places(self) -> np.ndarray:
        """Flat places of the text tokens that are not selected; [CLS] begins a sample, [SEP] ends A and B."""
        sample_ids = self.sample_ids.cpu().numpy()
        # A's [SEP] is where the token type is about to change, the last one where the sample is about to.
        parts = np.stack([sample_ids, self.token_type_ids.cpu().numpy()])
        before_change = np.ones(sample_ids.shape, dtype=bool)
        before_change[:, :-1] = (parts[:, :, 1:] != parts[:, :, :-1]).any(axis=0)
        # A [CLS] has position 0, and so has padding.
        is_context = (~before_change & (self.position_ids.cpu().numpy() > 0)).ravel()
        is_context[self.masked_positions[: self.num_masked].cpu().numpy()] = False
        return np.flatnonzero(is_context)


def joined(parts: Sequence[RowArrays]) -> RowArrays:
    """Parts laid end to end; positions move by the tokens before them."""
    before = starts_of(np.array([len(part.input_ids) for part in parts]))
    columns = {f.name: [getattr(part, f.name) for part in parts] for f in fields(RowArrays)}
    for name in ("masked_positions", "cls_positions"):
        columns[name] = [column + shift for column, shift in zip(columns[name], before, strict=False)]
    return RowArrays(**{name: np.concatenate(column) for name, column in columns.items()})


def _rounded_up(values: np.ndarray, multiple: int, fill: int) -> Tensor:
    """`values` followed by `fill` up to the next multiple."""
    rounded = np.empty(len(values) + -len(values) % multiple, dtype=values.dtype)
    rounded[: len(values)], rounded[len(values) :] = values, fill
    return torch.from_numpy(rounded)
