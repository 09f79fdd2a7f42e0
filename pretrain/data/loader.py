"""One rank's micro-batches, step after step, made ahead of time in a background thread.

A step's rows are cut into micro-batches of all ranks: the g-th of rank k has the `micro_batch` rows from
`(g * world + k) * micro_batch` on. Which rows a step has never depends on the cut.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from types import TracebackType
from typing import Protocol, Self, TypeVar

import torch

from pretrain.data.batches import Batch
from pretrain.errors import UsageError


class Position(Protocol):
    """A cursor: where a stream stands."""

    def as_list(self) -> list[int]: ...


Place = TypeVar("Place", bound=Position)
PlaceBehind = TypeVar("PlaceBehind", bound=Position, covariant=True)


class Rows(Protocol[PlaceBehind]):
    """Consecutive rows of a stream; `StepRows` and `BlendRows` are such."""

    @property
    def cursor(self) -> PlaceBehind: ...
    @property
    def next_cursor(self) -> PlaceBehind: ...
    @property
    def num_rows(self) -> int: ...
    @property
    def num_attended(self) -> int: ...
    @property
    def num_masked(self) -> int: ...
    @property
    def num_pairs(self) -> int: ...
    @property
    def num_samples(self) -> int: ...
    @property
    def num_tokens(self) -> int: ...
    def sample_names(self) -> list[str]: ...
    def names_by_row(self) -> list[list[str]]: ...
    def batch(self, first_row: int, num_rows: int) -> Batch: ...


class Stream(Protocol[Place]):
    """What rows come from; `RowStream` and `BlendStream` are such."""

    def step(self, cursor: Place, num_rows: int) -> Rows[Place]: ...


@dataclass(frozen=True)
class StepBatches:
    """One optimizer step: this rank's micro-batches, and the counts of the global batch.

    `cursor` is where the step's rows begin, `next_cursor` where those of the next step do. `sample_names`
    are those of the global batch in the order of its rows; empty unless they were asked for. `rows` can name them
    later, row by row; rank k of n had the rows from (g * n + k) * micro_batch on as its micro-batch g.
    """

    micro_batches: Sequence[Batch]
    cursor: Position
    next_cursor: Position
    num_attended: int
    num_masked: int
    num_pairs: int
    num_samples: int
    num_tokens: int
    num_rows: int
    rows: Rows[Position]
    sample_names: Sequence[str] = ()


@dataclass(frozen=True)
class _Failure:
    """What the thread ends with: the error, or None where it was asked to stop."""

    error: BaseException | None


class Loader:
    """Iterates over StepBatches for ever, from `cursor` on; `depth` steps are made ahead, with the names of
    their samples where `name_samples` asks for them.

    An error in the thread is raised by `next` after the steps before it. `close`, or leaving a `with` block,
    ends the thread; a closed loader stops iterating.
    """

    def __init__(
        self,
        stream: Stream[Place],
        cursor: Place,
        global_batch: int | Iterable[int],
        micro_batch: int,
        rank: int,
        world: int,
        depth: int = 2,
        name_samples: bool = False,
        device: torch.device | None = None,
    ) -> None:
        """`global_batch`: rows of every step, or of one step after another, each a multiple of micro_batch * world;
        `device`: where the batches will be copied to; for a GPU they are made in pinned memory.

        Raises UsageError for one number that is no such multiple.
        """
        if isinstance(global_batch, int):
            if global_batch < 1 or global_batch % (micro_batch * world):
                raise UsageError(
                    f"A global batch of {global_batch} rows cannot be cut into micro-batches of {micro_batch} "
                    f"rows on {world} rank(s): set train.global_batch to a multiple of {micro_batch * world}."
                )
            global_batch = repeat(global_batch)
        self._micro_batch = micro_batch
        self._name_samples = name_samples
        self._gpu = device if device is not None and device.type == "cuda" else None
        self._first_row, self._stride = rank * micro_batch, world * micro_batch
        self._free = Semaphore(depth)
        self._ready: SimpleQueue[StepBatches | _Failure] = SimpleQueue()
        self._stop = Event()
        self._end: _Failure | None = None
        # A daemon, so that a consumer that dies without closing does not keep the process alive.
        steps = _steps(stream, cursor, global_batch)
        self._thread = Thread(target=self._run, args=(steps,), name="batch loader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> StepBatches:
        if self._end is None:
            item = self._ready.get()
            if isinstance(item, StepBatches):
                self._free.release()
                return item
            self._end = item
        if self._end.error is not None:
            raise self._end.error
        raise StopIteration

    def close(self) -> None:
        """Ends the thread and waits for it; at most the micro-batch in progress is finished."""
        self._stop.set()
        self._free.release()
        self._thread.join()
        self._end = self._end or _Failure(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, steps: Iterator[Rows[Position]]) -> None:
        """The thread: makes a step whenever there is room for one."""
        end = _Failure(None)
        try:
            if self._gpu is not None:
                torch.cuda.set_device(self._gpu)  # a thread begins with the first one
            while self._free.acquire() and not self._stop.is_set():
                self._ready.put(self._step_batches(next(steps)))
        except BaseException as error:  # Whatever it is, the consumer must hear of it instead of waiting.
            end = _Failure(error)
        self._ready.put(end)

    def _step_batches(self, rows: Rows[Position]) -> StepBatches:
        """This rank's share of a step; cut short, and never delivered, once the loader is closed."""
        micro_batches: list[Batch] = []
        for first_row in range(self._first_row, rows.num_rows, self._stride):
            if self._stop.is_set():
                break
            batch = rows.batch(first_row, self._micro_batch)
            micro_batches.append(batch if self._gpu is None else batch.pinned())
        return StepBatches(
            micro_batches=micro_batches,
            cursor=rows.cursor,
            next_cursor=rows.next_cursor,
            num_attended=rows.num_attended,
            num_masked=rows.num_masked,
            num_pairs=rows.num_pairs,
            num_samples=rows.num_samples,
            num_tokens=rows.num_tokens,
            num_rows=rows.num_rows,
            rows=rows,
            sample_names=rows.sample_names() if self._name_samples else (),
        )


def _steps(stream: Stream[Place], cursor: Place, global_batch: Iterable[int]) -> Iterator[Rows[Place]]:
    """The rows of one step after another."""
    for num_rows in global_batch:
        rows = stream.step(cursor, num_rows)
        yield rows
        cursor = rows.next_cursor
