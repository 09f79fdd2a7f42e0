"""The endless stream of rows over a split of the token store, and the rows of one step of it.

1. an epoch's blocks are permuted and cut into windows (`order`);
2. a window's samples are planned (`plan`), packed into rows and the rows put in order (`pack`);
3. a step takes the next rows, across windows and epochs; its counts come from the plan alone;
4. the rows that are asked for, and only they, are laid out and masked (`rows`, `mask`, `batches`).

All of it is a pure function of the store, the seed, the options and the cursor.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pretrain.data.batches import Batch
from pretrain.data.mask import Masking, ordinary_ids
from pretrain.data.options import SamplingOptions
from pretrain.data.order import Cursor, permute, source_of
from pretrain.data.pack import pack
from pretrain.data.plan import plan_window
from pretrain.data.rows import RowArrays
from pretrain.data.samples import SamplePlan, starts_of
from pretrain.data.windows import PlannedWindow, RowCounts, Split
from pretrain.errors import DataError
from pretrain.rng import key

_KEPT_WINDOWS = 2


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
    def num_attended(self) -> int:
        """Over all real tokens, of the tokens that each attends to."""
        return self._total("attended")

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
        """ "epoch:window:block:sample" of every sample, in the order of the rows.

        The block of the store says which text it is, so that no two orders of a store have the same names.
        """
        names = []
        for piece in self.pieces:
            rows = piece.window.rows
            samples = rows.samples[rows.offsets[piece.first_row] : rows.offsets[piece.last_row]]
            prefix = "{}:{}".format(*piece.window.source)
            blocks = piece.window.blocks_of(samples).tolist()
            names += [f"{prefix}:{block}:{s}" for block, s in zip(blocks, samples.tolist(), strict=True)]
        return names

    def names_by_row(self) -> list[list[str]]:
        """`sample_names`, those of each row apart."""
        names, ends = self.sample_names(), starts_of(self.samples_per_row()).tolist()
        return [names[first:last] for first, last in pairwise(ends)]

    def samples_per_row(self) -> np.ndarray:
        """[rows] int64."""
        columns = (
            np.diff(piece.window.rows.offsets[piece.first_row : piece.last_row + 1]) for piece in self.pieces
        )
        return np.concatenate([np.empty(0, dtype=np.int64), *columns])

    def batch(self, first_row: int, num_rows: int) -> Batch:
        """Rows [first_row, first_row + num_rows) of these rows."""
        return Batch.from_arrays(self.arrays(first_row, num_rows), self.seq_len)

    def arrays(self, first_row: int, num_rows: int) -> list[RowArrays]:
        """The same rows as arrays, one part for each window."""
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
        return parts

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
                "needs two: separate the documents by blank lines, or set data.objective to sop or mlm."
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
            self._check_pairs(window.plan)
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
        source = source_of(epoch, window, self.windows_per_epoch, options.static_epochs, seed)
        first = source[1] * options.window_blocks
        last = min(first + options.window_blocks, self._split.num_blocks)
        order = permute(np.arange(first, last), self._split.num_blocks, key(seed, "blocks", source[0]))
        blocks = order.tolist()
        plan = plan_window(map(self._split.block, blocks), options, key(seed, "plan", *source))
        lengths = plan.text_lengths + options.num_special_tokens
        rows = pack(lengths, options.seq_len, key(seed, "rows", epoch, window), options.packing)
        mask_key = key(seed, "mask", *source)
        masking = Masking(options, self._special_ids["mask"], self._ordinary_ids, mask_key)
        counts = RowCounts.of(plan, rows, options)
        return PlannedWindow(
            epoch, window, source, self._split, blocks, plan, rows, counts, masking, self._special_ids
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

    def _check_pairs(self, plan: SamplePlan) -> None:
        """Raises DataError for next-sentence pairs that are all random, where no window can do better."""
        split = self._split
        if self._options.objective != "nsp" or split.num_sentences > split.num_documents:
            return
        if plan.num_samples and not plan.num_actual_pairs:
            raise DataError(
                f"Every document of the {split.name} split of the token store is one sentence, so that no "
                "next-sentence pair can be an actual one: set data.objective to sop or mlm, or build the store "
                "from whole documents."
            )

    def _no_rows(self) -> DataError:
        return DataError(
            f"The {self._split.name} split of the token store makes no {self._options.objective} sample: "
            "its documents are too short or too few; build it from more text, or set data.objective=mlm."
        )
