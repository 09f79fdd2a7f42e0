"""What the rows of a run hold: from the first window of its stores, which is planned as training plans it.

A window is planned by lengths alone, without reading a token; it stands for the whole store, as it holds blocks from
everywhere in it. The names of a step's samples are no estimate: they are those that training takes.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np

from pretrain import build
from pretrain.config import Recipe
from pretrain.data.blend import BlendCursor, BlendStream
from pretrain.data.corpus import Corpus
from pretrain.data.loader import Place, Position, Rows, Stream
from pretrain.data.order import Cursor
from pretrain.data.stream import RowStream
from pretrain.data.windows import PlannedWindow

_KEPT_WINDOWS = 2


@dataclass(frozen=True)
class StoreRows:
    """Of one store: figures of its first window, and what share of the run's rows it gives.

    `rows_per_epoch` is that of the window by its share of the store's text, and exact where it is all of it.
    """

    name: str
    share: float
    rows: int
    samples: int
    tokens: int  # real ones, special ones included
    attended: int  # over all of them, of the tokens that each attends to
    masked: int
    pairs: int
    rows_per_epoch: float
    text_tokens: int  # of the training split
    window_bytes: int  # of the two windows that a stream keeps


@dataclass(frozen=True)
class RowFigures:
    """Means over the rows of a run."""

    stores: tuple[StoreRows, ...]
    seq_len: int

    def _mean(self, name: str) -> float:
        return sum(float(each.share * getattr(each, name) / each.rows) for each in self.stores)

    @property
    def samples_per_row(self) -> float:
        return self._mean("samples")

    @property
    def tokens_per_row(self) -> float:
        return self._mean("tokens")

    @property
    def attended_per_row(self) -> float:
        """Over a row's tokens, of the tokens that each attends to."""
        return self._mean("attended")

    @property
    def masked_per_row(self) -> float:
        return self._mean("masked")

    @property
    def pairs_per_row(self) -> float:
        return self._mean("pairs")

    @property
    def padding_share(self) -> float:
        """Of the places in the rows."""
        return 1 - self.tokens_per_row / self.seq_len

    @property
    def masked_share(self) -> float:
        """Of the real tokens: what is predicted."""
        return self.masked_per_row / self.tokens_per_row

    @property
    def window_bytes(self) -> int:
        """In host memory, of all stores."""
        return sum(each.window_bytes for each in self.stores)

    def epochs(self, rows: int) -> tuple[float, ...]:
        """How often so many rows go over each store."""
        return tuple(each.share * rows / each.rows_per_epoch for each in self.stores)


def row_figures(corpus: Corpus, recipe: Recipe) -> RowFigures:
    """Plans a window of each store. Raises DataError where a store gives no row."""
    weights = sum(corpus.weights)
    stores = []
    for name, stream, store, weight in zip(
        corpus.names, _streams(corpus, recipe), corpus.stores, corpus.weights, strict=True
    ):
        (first, *_) = stream.step(Cursor(0, 0, 0), 1).pieces  # of a window that has rows
        window, split = first.window, store.split("train")
        counts = window.counts
        stores.append(
            StoreRows(
                name=name,
                share=weight / weights,
                rows=window.rows.num_rows,
                samples=int(counts.samples[-1]),
                tokens=int(counts.tokens[-1]),
                attended=int(counts.attended[-1]),
                masked=int(counts.masked[-1]),
                pairs=int(counts.pairs[-1]),
                rows_per_epoch=window.rows.num_rows * split.num_tokens / window.plan.num_window_tokens,
                text_tokens=split.num_tokens,
                window_bytes=_KEPT_WINDOWS
                * _window_bytes(window, store.split("train").block(0).tokens.itemsize),
            )
        )
    return RowFigures(tuple(stores), recipe.data.seq_len)


def first_rows(corpus: Corpus, recipe: Recipe, num_rows: int) -> Rows[Position]:
    """The rows that a run begins with."""
    streams = _streams(corpus, recipe)
    if not corpus.is_blend:
        return streams[0].step(Cursor(0, 0, 0), num_rows)
    blend = BlendStream(streams, corpus.weights, recipe.data.seq_len)
    return blend.step(BlendCursor.start(len(streams)), num_rows)


def sample_names(corpus: Corpus, recipe: Recipe, step: int) -> list[str]:
    """The names of the samples that a run takes in its step `step` (from 1), as its samples.jsonl lists them: of the
    global batch, in the order of its rows. Every window before it is planned, none is read."""
    streams = _streams(corpus, recipe)
    sizes = [recipe.train.batch_plan.rows_of(done) for done in range(step)]
    if not corpus.is_blend:
        return _names_of_last(streams[0], Cursor(0, 0, 0), sizes)
    blend = BlendStream(streams, corpus.weights, recipe.data.seq_len)
    return _names_of_last(blend, BlendCursor.start(len(streams)), sizes)


def _window_bytes(window: PlannedWindow, token_bytes: int) -> int:
    """Its tokens, samples and rows."""
    arrays = (
        getattr(part, each.name)
        for part in (window.plan, window.rows, window.counts)
        for each in fields(part)
    )
    planned = sum(each.nbytes for each in arrays if isinstance(each, np.ndarray))
    return planned + token_bytes * window.plan.num_window_tokens


def _names_of_last(stream: Stream[Place], cursor: Place, sizes: Iterable[int]) -> list[str]:
    rows: Rows[Position] | None = None
    for num_rows in sizes:
        rows = step = stream.step(cursor, num_rows)
        cursor = step.next_cursor
    return [] if rows is None else rows.sample_names()


def _streams(corpus: Corpus, recipe: Recipe) -> list[RowStream]:
    sampling = build.sampling_options(recipe)
    return [build.row_stream(store, "train", sampling, recipe.seed) for store in corpus.stores]
