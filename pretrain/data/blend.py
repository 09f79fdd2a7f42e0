"""Several streams of rows as one, each with its share of the rows.

1. a pattern says of every row of the blend which store it is from: a pure function of the shares, without state;
2. a step takes from each store's own stream as many rows as the pattern gives it (`BlendStream`);
3. the rows that are asked for are made store by store and laid in the order of the pattern (`BlendRows`).

Each store keeps its own order, samples and masks: they are those of the store alone with the same seed, whatever
it is blended with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Self

import numpy as np

from pretrain.data.batches import Batch, joined
from pretrain.data.order import Cursor
from pretrain.data.rows import RowArrays
from pretrain.data.samples import starts_of
from pretrain.data.stream import RowStream, StepRows
from pretrain.errors import DataError

_INT64_SAFE = 1 << 62


class RowPattern:
    """Which store each row of the endless blend is from, in proportion to whole-number `weights`.

    The stores are joined two by two, the lightest first (Huffman 1952), into a binary tree. Of the first m rows
    that reach a fork, round(m * share) go to its lighter side: counts in closed form at any row, and within half
    a row of the share at each fork. In any run of consecutive rows a store's rows thus differ from its share by
    less than 2 with two or three stores, and by less than 3.4 (1 + 1 + 1/2 + 1/3 + 1/5 + ...) with any number.
    """

    def __init__(self, weights: Sequence[int]) -> None:
        """Raises ValueError unless there is a weight and all are positive."""
        if not weights or min(weights) < 1:
            raise ValueError(f"the weights of a blend are positive whole numbers, not {list(weights)}")
        self._num_stores = len(weights)
        self._weights = list(weights)  # of the stores, then of the forks in the order they were made
        self._sides: list[tuple[int, int]] = []
        open_ = [(weight, node) for node, weight in enumerate(weights)]
        heapify(open_)
        while len(open_) > 1:
            (light, left), (heavy, right) = heappop(open_), heappop(open_)
            heappush(open_, (light + heavy, len(self._weights)))
            self._weights.append(light + heavy)
            self._sides.append((left, right))

    def counts(self, num_rows: int) -> list[int]:
        """Rows of each store among the first `num_rows`."""
        return self._reached(num_rows)[: self._num_stores]

    def stores(self, first_row: int, num_rows: int) -> np.ndarray:
        """[num_rows] int64: the store of each row from `first_row` on."""
        chosen = np.zeros(num_rows, dtype=np.int64)
        before = self._reached(first_row)
        places = {len(self._weights) - 1: np.arange(num_rows)}
        for node in range(len(self._weights) - 1, self._num_stores - 1, -1):
            left, right = self._sides[node - self._num_stores]
            here = places[node]
            goes_left = self._goes_left(node, left, before[node], len(here))
            places[left], places[right] = here[goes_left], here[~goes_left]
        for store in range(self._num_stores):
            chosen[places[store]] = store
        return chosen

    def _reached(self, num_rows: int) -> list[int]:
        """How many of the first `num_rows` reach each store and each fork."""
        reached = [0] * len(self._weights)
        reached[-1] = num_rows
        for node in range(len(self._weights) - 1, self._num_stores - 1, -1):
            left, right = self._sides[node - self._num_stores]
            weight = self._weights[node]
            reached[left] = (2 * reached[node] * self._weights[left] + weight) // (2 * weight)
            reached[right] = reached[node] - reached[left]
        return reached

    def _goes_left(self, node: int, left: int, before: int, num_rows: int) -> np.ndarray:
        """[num_rows] bool: of the rows that reach a fork after `before` others, those that go left."""
        whole, step = 2 * self._weights[node], 2 * self._weights[left]
        phase = (before * step + self._weights[node]) % whole
        fits = num_rows * step + whole < _INT64_SAFE
        numbers = np.arange(num_rows, dtype=np.int64 if fits else object)
        goes_left: np.ndarray = (phase + step * numbers) % whole >= whole - step
        return goes_left.astype(bool)


@dataclass(frozen=True)
class BlendCursor:
    """The row of the blend that comes next: its number in the pattern, and where each store's stream stands."""

    row: int
    stores: tuple[Cursor, ...]

    @classmethod
    def start(cls, num_stores: int) -> Self:
        """The first row of all."""
        return cls(0, (Cursor(0, 0, 0),) * num_stores)

    def as_list(self) -> list[int]:
        """For JSON: the row, then epoch, window and row of each store."""
        return [self.row, *(value for cursor in self.stores for value in cursor.as_list())]

    @classmethod
    def from_list(cls, values: list[int], num_stores: int) -> Self:
        """Raises DataError unless `values` are 1 + 3 * num_stores non-negative integers."""
        if len(values) != 1 + 3 * num_stores or any(type(value) is not int or value < 0 for value in values):
            raise DataError(
                f"The data cursor of a blend of {num_stores} stores is {1 + 3 * num_stores} non-negative integers "
                f"(row, then epoch, window, row of each store), not {values}: take it unchanged from a checkpoint "
                "or from metrics.jsonl."
            )
        return cls(values[0], tuple(Cursor(*values[at : at + 3]) for at in range(1, len(values), 3)))


@dataclass(frozen=True)
class BlendRows:
    """Consecutive rows of a blend. `parts`: the rows of each store; `stores` [rows]: the store of each row."""

    parts: Sequence[StepRows]
    stores: np.ndarray
    seq_len: int
    cursor: BlendCursor
    next_cursor: BlendCursor

    @property
    def num_rows(self) -> int:
        return len(self.stores)

    @property
    def num_attended(self) -> int:
        """Over all real tokens, of the tokens that each attends to."""
        return sum(part.num_attended for part in self.parts)

    @property
    def num_masked(self) -> int:
        return sum(part.num_masked for part in self.parts)

    @property
    def num_pairs(self) -> int:
        return sum(part.num_pairs for part in self.parts)

    @property
    def num_samples(self) -> int:
        return sum(part.num_samples for part in self.parts)

    @property
    def num_tokens(self) -> int:
        """Real tokens, special ones included, without padding."""
        return sum(part.num_tokens for part in self.parts)

    def sample_names(self) -> list[str]:
        """ "store:epoch:window:block:sample" of every sample in the order of the rows; stores count from 0."""
        return [name for names in self.names_by_row() for name in names]

    def names_by_row(self) -> list[list[str]]:
        """`sample_names`, those of each row apart."""
        rows_of_parts = [iter(part.names_by_row()) for part in self.parts]
        return [[f"{store}:{name}" for name in next(rows_of_parts[store])] for store in self.stores.tolist()]

    def batch(self, first_row: int, num_rows: int) -> Batch:
        """Rows [first_row, first_row + num_rows) of these rows."""
        if first_row < 0 or num_rows < 1 or first_row + num_rows > self.num_rows:
            raise ValueError(f"rows {first_row} + {num_rows} do not lie within {self.num_rows} rows")
        asked = self.stores[first_row : first_row + num_rows]
        pieces: list[RowArrays] = []
        for store, part in enumerate(self.parts):
            first = int(np.count_nonzero(self.stores[:first_row] == store))
            number = int(np.count_nonzero(asked == store))
            pieces += part.arrays(first, number) if number else []
        # Made store by store: row i of the batch is number order[i] of what was made.
        order = np.empty(num_rows, dtype=np.int64)
        order[np.argsort(asked, kind="stable")] = np.arange(num_rows)
        rows = pieces[0] if len(pieces) == 1 else joined(pieces)
        return Batch.from_arrays([in_order(rows, order, self.seq_len)], self.seq_len)


class BlendStream:
    """The rows of several streams in the order of a pattern. For one thread at a time."""

    def __init__(self, streams: Sequence[RowStream], weights: Sequence[int], seq_len: int) -> None:
        """`weights`: positive whole numbers, the shares of the streams' rows."""
        self._streams = list(streams)
        self._pattern = RowPattern(weights)
        self._seq_len = seq_len

    def step(self, cursor: BlendCursor, num_rows: int) -> BlendRows:
        """The next `num_rows` rows at `cursor`. Raises DataError as each store's stream does."""
        stores = self._pattern.stores(cursor.row, num_rows)
        counts = np.bincount(stores, minlength=len(self._streams)).tolist()
        parts = [
            stream.step(position, count)
            for stream, position, count in zip(self._streams, cursor.stores, counts, strict=True)
        ]
        behind = BlendCursor(cursor.row + num_rows, tuple(part.next_cursor for part in parts))
        return BlendRows(parts, stores, self._seq_len, cursor, behind)


def in_order(rows: RowArrays, order: np.ndarray, seq_len: int) -> RowArrays:
    """The same rows in another order: row `order[i]` comes to place i."""
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))

    def by_token(values: np.ndarray) -> np.ndarray:
        return values.reshape(-1, seq_len)[order].ravel()

    def by_place(row: np.ndarray) -> np.ndarray:
        """The order of what lies in these rows, that of one row unchanged."""
        return np.argsort(place[row], kind="stable")

    masked_row, cls_row = rows.masked_positions // seq_len, rows.cls_positions // seq_len
    masked, samples = by_place(masked_row), by_place(cls_row)
    segments = by_place(starts_of(rows.segment_lengths)[:-1] // seq_len)
    moved = (place - np.arange(len(order))) * seq_len
    return RowArrays(
        input_ids=by_token(rows.input_ids),
        token_type_ids=by_token(rows.token_type_ids),
        position_ids=by_token(rows.position_ids),
        sample_ids=by_token(rows.sample_ids),
        segment_lengths=rows.segment_lengths[segments],
        masked_positions=(rows.masked_positions + moved[masked_row])[masked],
        masked_labels=rows.masked_labels[masked],
        masked_is_mask=rows.masked_is_mask[masked],
        cls_positions=(rows.cls_positions + moved[cls_row])[samples],
        nsp_labels=rows.nsp_labels[samples],
    )
