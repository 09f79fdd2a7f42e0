"""Heartbeats: what each process says of itself, through the store of the process group.

A thread of its own asks the store, by a client of its own: a store whose machine is stopped or cut off holds up that
thread alone, and `seconds_without_contact` grows. Keys: `beat/<rank>`, and `end`, which the first process that ends
the run writes and all others obey.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from queue import Empty, SimpleQueue
from threading import Event, Thread
from time import monotonic
from typing import Any, Protocol, TypeVar

from pretrain.watch.activity import Doing
from pretrain.watch.processes import ProcessId

Result = TypeVar("Result")
_END_KEY = "end"
_ALL_UP_TO = 64  # ranks whose beats are read every time; of larger worlds those of this machine and rank 0


class Store(Protocol):
    """What is used of torch's stores."""

    def set(self, key: str, value: str, /) -> None: ...
    def check(self, keys: list[str], /) -> bool: ...
    def multi_get(self, keys: list[str], /) -> list[bytes]: ...
    def compare_set(self, key: str, expected: str, desired: str, /) -> bytes: ...


@dataclass(frozen=True)
class Beat:
    """One sign of life. `number` grows with each; `still` is how many seconds the process has done nothing new."""

    rank: int
    machine: str
    process: ProcessId
    number: int
    doing: Doing
    still: float
    where: str
    exchanging: bool

    @classmethod
    def parse(cls, text: bytes) -> "Beat":
        content = json.loads(text)
        content |= {"process": ProcessId(*content["process"]), "doing": Doing(*content["doing"])}
        return cls(**content)

    @property
    def host(self) -> str:
        return self.machine.partition("/")[0]


@dataclass(frozen=True)
class End:
    """Why the run ends, said once for all ranks, and with which exit code. `is_fault`: everybody leaves its stacks."""

    rank: int
    code: int
    sentence: str
    is_fault: bool


@dataclass(frozen=True)
class _Seen:
    beat: Beat
    at: float  # of the clock of this process, when the beat was new


class Beats:
    """This process's beat goes out, the others' come in, every `interval` seconds. `clock` stands while the process is
    stopped, so that one that was goes on with what it knew."""

    def __init__(
        self,
        connect: Callable[[], Store],
        rank: int,
        neighbours: Iterable[int],
        world_size: int,
        interval: float,
        clock: Callable[[], float],
    ) -> None:
        self.own: Beat | None = None
        self.end: End | None = None
        self._connect, self._rank, self._clock, self._interval = connect, rank, clock, interval
        self._world_size = world_size
        self._regular = list(range(world_size)) if world_size <= _ALL_UP_TO else sorted({0, *neighbours})
        self._seen: dict[int, _Seen] = {}
        self._store: Store | None = None
        self._contact_at = clock()
        self._was_in_contact = False
        self._jobs: SimpleQueue[Callable[[Store], None] | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="heartbeats", daemon=True)
        self._thread.start()

    def know(self, beats: Iterable[Beat]) -> None:
        """Of the others, before a beat of theirs has come in."""
        for beat in beats:
            if beat.rank != self._rank:
                self._seen.setdefault(beat.rank, _Seen(beat, self._clock()))

    @property
    def seconds_without_contact(self) -> float | None:
        """None before the first contact."""
        return self._clock() - self._contact_at if self._was_in_contact else None

    def last_of(self, rank: int) -> Beat | None:
        seen = self._seen.get(rank)
        return None if seen is None else seen.beat

    def silence(self, rank: int) -> float:
        """Seconds since a new beat of this rank came in; infinite where none has."""
        seen = self._seen.get(rank)
        return float("inf") if seen is None else self._clock() - seen.at

    def read_all(self, timeout: float) -> bool:
        """Brings the beats of all ranks up to date; false where the store gave no answer in time."""

        def read(store: Store) -> bool:
            self._read(store, range(self._world_size))
            return True

        return self._ask(read, timeout) is True

    def claim(self, end: End, timeout: float) -> End | None:
        """Says how the run ends, unless somebody has; what holds. None where the store gave no answer in time."""
        text = json.dumps(asdict(end))
        answer = self._ask(lambda store: store.compare_set(_END_KEY, "", text), timeout)
        return None if answer is None else End(**json.loads(answer))

    def close(self) -> None:
        """Ends the thread after what it is doing."""
        self._jobs.put(None)

    def _ask(self, question: Callable[[Store], Result], timeout: float) -> Result | None:
        answers: list[Result] = []
        done = Event()

        def job(store: Store) -> None:
            try:
                answers.append(question(store))
            finally:
                done.set()

        self._jobs.put(job)
        done.wait(timeout)
        return answers[0] if answers else None

    def _run(self) -> None:
        next_beat = 0.0
        while True:
            try:
                job = self._jobs.get(timeout=max(0.0, next_beat - monotonic()))
            except Empty:
                job, next_beat = self._exchange, monotonic() + self._interval
            if job is None:
                return
            try:
                if self._store is None:
                    self._store = self._connect()
                job(self._store)
                self._contact_at, self._was_in_contact = self._clock(), True
            except (RuntimeError, ValueError, OSError):
                self._store = None  # connected again at the next beat, if there is anybody

    def _exchange(self, store: Store) -> None:
        own = self.own
        if own is not None:
            store.set(f"beat/{self._rank}", json.dumps(asdict(own)))
        self._read(store, self._regular)
        if self.end is None and store.check([_END_KEY]):
            self.end = End(**json.loads(store.multi_get([_END_KEY])[0]))

    def _read(self, store: Store, ranks: Iterable[int]) -> None:
        keys = {rank: f"beat/{rank}" for rank in ranks if rank != self._rank}
        if not store.check(list(keys.values())):
            keys = {rank: key for rank, key in keys.items() if store.check([key])}
        texts = store.multi_get(list(keys.values())) if keys else []
        for rank, text in zip(keys, texts, strict=True):
            beat, before = Beat.parse(text), self._seen.get(rank)
            if before is None or before.beat.number != beat.number or before.beat.process != beat.process:
                self._seen[rank] = _Seen(beat, self._clock())


def as_json(value: Any) -> str:
    """Of a data class."""
    return json.dumps(asdict(value), indent=1) + "\n"
