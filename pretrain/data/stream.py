"""The endless stream of rows over a split of the token store, and the rows of one step of it.

1. an epoch's blocks are permuted and cut into windows (`order`);
2. a window's samples are planned (`plan`), packed into rows and the rows put in order (`pack`);
3. a step takes the next rows, across windows and epochs; its counts come from the plan alone;
4. the rows that are asked for, and only they, are laid out and masked (`rows`, `mask`, `batches`).

All of it is a pure function of the store, the seed, the options and the cursor.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from pretrain.data.batches import IGNORED_LABEL, Batch
from pretrain.data.mask import Masking, count_masked, ordinary_ids
from pretrain.data.options import SamplingOptions
from pretrain.data.order import Cursor, permute
from pretrain.data.pack import PackedRows, pack
from pretrain.data.plan import plan_window
from pretrain.data.rows import RowLayout
from pretrain.data.samples import BlockLengths, SamplePlan, starts_of
from pretrain.errors import DataError
from pretrain.rng import key

_KEPT_WINDOWS = 2


class Block(BlockLengths, Protocol):
    """A block of the token store."""

    @property
    def tokens(self) -> np.ndarray: ...


class Split(Protocol):
    """A split of the token store, read block by block."""

    @property
    def name(self) -> str: ...
    @property
    def num_documents(self) -> int: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def num_blocks(self) -> int: ...
    def block(self, index: int) -> Block: ...


@dataclass(frozen=True)
class RowCounts:
    """Sums over the rows before each row of a window, [rows + 1] int64 each."""

    masked: np.ndarray
    pairs: np.ndarray
    samples: np.ndarray
    tokens: np.ndarray

    @classmethod
    def of(cls, plan: SamplePlan, rows: PackedRows, options: SamplingOptions) -> "RowCounts":
        def before_rows(per_sample: np.ndarray) -> np.ndarray:
            return starts_of(per_sample[rows.samples])[rows.offsets]

        return cls(
            masked=before_rows(count_masked(plan.text_lengths, options.mask_probability)),
            pairs=before_rows(plan.nsp_label != IGNORED_LABEL),
            samples=rows.offsets,
            tokens=before_rows(plan.text_lengths + options.num_special_tokens),
        )


@dataclass(frozen=True)
class PlannedWindow:
    """A window of an epoch: its samples, its rows and, once rows are made of them, its tokens."""

    epoch: int
    window: int
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
        return RowLayout(tokens, self.plan, self.rows, self.masking, self.special_ids)


@dataclass(frozen=True)
class _Piece:
    """Rows [first_row, last_row) of a window."""

    window: PlannedWindow
    first_row: int
    last_row: int


@dataclass(frozen=True)
class StepRows:
    """Consecutive rows of the stream: what they hold is known, the rows themselves are made on request."""

    pieces: Sequence[_Piece]
    seq_len: int
    cursor: Cursor
    next_cursor: Cursor

    @property
    def num_rows(self) -> int:
        return sum(piece.last_row - piece.first_row for piece in self.pieces)

    @property
    def num_masked(self) -> int:
        return self._total("masked")

    @property
    def num_pairs(self) -> int:
        return self._total("pairs")

    @property
    def num_samples(self) -> int:
        return self._total("samples")

    @property
    def num_tokens(self) -> int:
        """Real tokens, special ones included, without padding."""
        return self._total("tokens")

    def sample_names(self) -> list[str]:
        """ "epoch:window:sample" of every sample, in the order of the rows."""
        names = []
        for piece in self.pieces:
            rows = piece.window.rows
            samples = rows.samples[rows.offsets[piece.first_row] : rows.offsets[piece.last_row]]
            prefix = f"{piece.window.epoch}:{piece.window.window}"
            names += [f"{prefix}:{sample}" for sample in samples.tolist()]
        return names

    def batch(self, first_row: int, num_rows: int) -> Batch:
        """Rows [first_row, first_row + num_rows) of these rows."""
        if first_row < 0 or num_rows < 1 or first_row + num_rows > self.num_rows:
            raise ValueError(f"rows {first_row} + {num_rows} do not lie within {self.num_rows} rows")
        parts = []
        last_row = first_row + num_rows
        for piece in self.pieces:
            size = piece.last_row - piece.first_row
            low, high = max(first_row, 0), min(last_row, size)
            if low < high:
                parts.append(piece.window.layout.arrays(piece.first_row + low, piece.first_row + high))
            first_row, last_row = first_row - size, last_row - size
        return Batch.from_arrays(parts, self.seq_len)

    def _total(self, name: str) -> int:
        """Sum of one of RowCounts over these rows."""
        columns = ((getattr(piece.window.counts, name), piece) for piece in self.pieces)
        return sum(int(column[piece.last_row] - column[piece.first_row]) for column, piece in columns)


class RowStream:
    """The rows of a split, epoch after epoch. Keeps the two windows planned last; for one thread at a time.

    `special_ids`: ids by name ("pad", "cls", "sep", "mask"); `all_special_ids`: all that no text has.
    """

    def __init__(
        self,
        split: Split,
        special_ids: Mapping[str, int],
        all_special_ids: Sequence[int],
        vocab_size: int,
        options: SamplingOptions,
        seed: int,
    ) -> None:
        """Raises DataError where the split cannot give a single row for the objective."""
        if split.num_tokens == 0:
            raise DataError(f"The {split.name} split of the token store has no text: build it from more.")
        if options.objective == "nsp" and split.num_documents < 2:
            raise DataError(
                f"The {split.name} split of the token store has one document, and next-sentence prediction "
                "needs two: separate the documents by blank lines, or set data.objective=mlm."
            )
        self._split = split
        self._special_ids = special_ids
        self._ordinary_ids = ordinary_ids(vocab_size, all_special_ids)
        self._options = options
        self._seed = seed
        self._planned: dict[tuple[int, int], PlannedWindow] = {}

    @property
    def windows_per_epoch(self) -> int:
        return -(-self._split.num_blocks // self._options.window_blocks)

    def step(self, cursor: Cursor, num_rows: int) -> StepRows:
        """The next `num_rows` rows at `cursor`, in as many windows and epochs as they need.

        Raises DataError where the cursor lies outside the stream or a whole epoch has no row.
        """
        pieces: list[_Piece] = []
        position, missing, empty_windows = cursor, num_rows, 0
        while missing:
            window = self.window(position.epoch, position.window)
            last_row = min(window.rows.num_rows, position.row + missing)
            if position.row > window.rows.num_rows:
                raise self._outside(cursor)
            if last_row > position.row:
                pieces.append(_Piece(window, position.row, last_row))
            empty_windows = 0 if window.rows.num_rows else empty_windows + 1
            if empty_windows == 2 * self.windows_per_epoch:  # From anywhere, a whole epoch without a row.
                raise self._no_rows()
            missing -= last_row - position.row
            position = self._behind(window, last_row)
        return StepRows(pieces, self._options.seq_len, cursor, position)

    def epoch_rows(self, epoch: int, limit: int | None = None) -> StepRows:
        """The first `limit` rows of an epoch, or all that it has; never a row of the next epoch."""
        pieces: list[_Piece] = []
        position, missing = Cursor(epoch, 0, 0), limit
        while position.epoch == epoch and missing != 0:
            window = self.window(epoch, position.window)
            last_row = window.rows.num_rows if missing is None else min(window.rows.num_rows, missing)
            if last_row:
                pieces.append(_Piece(window, 0, last_row))
            missing = None if missing is None else missing - last_row
            position = self._behind(window, last_row)
        if not pieces:
            raise self._no_rows()
        return StepRows(pieces, self._options.seq_len, Cursor(epoch, 0, 0), position)

    def window(self, epoch: int, window: int) -> PlannedWindow:
        """The planned window, made anew unless it is one of the two planned last."""
        if window >= self.windows_per_epoch:
            raise self._outside(Cursor(epoch, window, 0))
        if (epoch, window) not in self._planned:
            while len(self._planned) >= _KEPT_WINDOWS:
                del self._planned[next(iter(self._planned))]
            self._planned[epoch, window] = self._plan(epoch, window)
        return self._planned[epoch, window]

    def _plan(self, epoch: int, window: int) -> PlannedWindow:
        options, seed = self._options, self._seed
        first = window * options.window_blocks
        last = min(first + options.window_blocks, self._split.num_blocks)
        order = permute(np.arange(first, last), self._split.num_blocks, key(seed, "blocks", epoch))
        blocks = order.tolist()
        plan = plan_window(map(self._split.block, blocks), options, key(seed, "plan", epoch, window))
        lengths = plan.text_lengths + options.num_special_tokens
        rows = pack(lengths, options.seq_len, key(seed, "rows", epoch, window), options.packing)
        mask_key = key(seed, "mask", epoch, window)
        masking = Masking(options, self._special_ids["mask"], self._ordinary_ids, mask_key)
        counts = RowCounts.of(plan, rows, options)
        return PlannedWindow(
            epoch, window, self._split, blocks, plan, rows, counts, masking, self._special_ids
        )

    def _behind(self, window: PlannedWindow, row: int) -> Cursor:
        """The cursor at `row` of a window; at its end, the beginning of the next one."""
        if row < window.rows.num_rows:
            return Cursor(window.epoch, window.window, row)
        if window.window + 1 < self.windows_per_epoch:
            return Cursor(window.epoch, window.window + 1, 0)
        return Cursor(window.epoch + 1, 0, 0)

    def _outside(self, cursor: Cursor) -> DataError:
        return DataError(
            f"The data cursor {cursor.as_list()} lies outside the {self._split.name} split with its "
            f"{self.windows_per_epoch} windows an epoch: continue with the store, the seed and the sampling "
            "options (data.*) that it comes from."
        )

    def _no_rows(self) -> DataError:
        return DataError(
            f"The {self._split.name} split of the token store makes no {self._options.objective} sample: "
            "its documents are too short or too few; build it from more text, or set data.objective=mlm."
        )
