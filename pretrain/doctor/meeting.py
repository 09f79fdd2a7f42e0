"""How ranks answer each other by the launcher's own store, each question with a limit, and who did not answer.

1. Rank 0 keeps the store at the meeting point, as a run's would, or torchrun does; the others knock until it is there.
2. Every rank comes in (`gather` of the first question). Who has not come in time is absent for the others.
3. At a question each rank lays down its answer; rank 0 waits for those who are there, and tells all what came in.

Whoever is asked and does not answer in time is absent from then on.
"""

import json
import socket
from collections.abc import Iterable
from contextlib import suppress
from time import monotonic, sleep
from typing import Any

import torch.distributed as dist

from pretrain import comm
from pretrain.doctor.finding import named_ranks
from pretrain.doctor.here import Here
from pretrain.errors import UsageError
from pretrain.placement import Placement, meeting_point

# Processes start at different times, and import libraries from a disk that they share.
COMING_LIMITS = 3
_FIRST_POLL, _LAST_POLL = 0.005, 0.2
TELLING_SECONDS = 5.0  # on top of rank 0's own limit, in which it waits for the others


_REMEDY = "see that rank 0 runs, and that MASTER_ADDR and MASTER_PORT lead to it from every machine"


class Unheard(Exception):
    """The others cannot hear this rank. The message says why: what was expected, what was found; `remedy` what to do,
    where the message does not end with it."""

    def __init__(self, message: str, remedy: str = _REMEDY) -> None:
        super().__init__(message)
        self.remedy = remedy


class Meeting:
    """The ranks that are there. A world of one needs no store.

    `for_group`: another client of the store. Torch lets one question at a time through a client, and a process group
    that waits in vain would hold up all others.
    """

    def __init__(
        self, place: Placement, seconds: float, store: dist.Store | None, for_group: dist.Store | None = None
    ) -> None:
        self._place, self._store, self.seconds, self.for_group = place, store, seconds, for_group
        self.present: frozenset[int] = frozenset(range(place.world_size))
        self.absent: dict[int, str] = {}  # by rank, the question that was not answered

    @property
    def is_complete(self) -> bool:
        return len(self.present) == self._place.world_size

    @property
    def store(self) -> dist.Store:
        """Raises Unheard in a world of one."""
        if self._store is None:
            raise Unheard("there are no others")
        return self._store

    def gather(self, question: str, answer: Any, seconds: float | None = None) -> dict[int, Any]:
        """The answers of those who gave one, by rank, on every rank; plain data. Raises Unheard where rank 0 is gone,
        or has gone on without this one."""
        if self._store is None:
            return {0: answer}
        limit = self.seconds if seconds is None else seconds
        self._put(f"{question}/{self._place.rank}", answer)
        if self._place.is_first:
            missing = self._wait([f"{question}/{rank}" for rank in sorted(self.present)], limit)
            late = {int(key.rpartition("/")[2]) for key in missing}
            answers = {str(rank): self._get(f"{question}/{rank}") for rank in sorted(self.present - late)}
            self._put(f"{question}/all", answers)
        else:
            longest = limit + 2 * self.seconds + TELLING_SECONDS  # rank 0 may come to the question later
            if self._wait([f"{question}/all"], longest):
                raise Unheard(f"rank 0 gave no answer in {longest:g} s ({question})")
            answers = self._get(f"{question}/all")
        found = {int(rank): each for rank, each in answers.items()}
        for rank in self.present - set(found):
            self.absent[rank] = question
        self.present &= frozenset(found)
        if self._place.rank not in found:
            raise Unheard(
                f"the others went on without this one, which was too late ({question}, {limit:g} s)"
            )
        return found

    def come_alone(self) -> None:
        """Raises Unheard where another process has this rank as well."""
        if self._store is not None and self._store.add(f"came/{self._place.rank}", 1) > 1:
            raise Unheard(
                f"two processes say that they are rank {self._place.rank}: expected one, started by one launcher"
            )

    def put_own(self, what: str, value: Any) -> None:
        """For rank 0, whenever it looks."""
        if self._store is not None:
            self._put(f"{what}/{self._place.rank}", value)

    def others(self, what: str, progress: str, seconds: float) -> dict[int, Any]:
        """On rank 0: what those who are there have `put_own`, waiting while their `progress` moves within `seconds`."""
        if self._store is None:
            return {}
        waiting, found = set(self.present - {0}), {}
        moved, seen = monotonic(), ""
        while waiting:
            for rank in [each for each in waiting if self._has(f"{what}/{each}")]:
                found[rank] = self._get(f"{what}/{rank}")
                waiting.discard(rank)
                moved = monotonic()
            now = str([self._get(key) for each in sorted(waiting) if self._has(key := f"{progress}/{each}")])
            if now != seen:
                moved, seen = monotonic(), now
            if monotonic() - moved > seconds:
                self.absent |= dict.fromkeys(waiting, what)
                break
            sleep(_LAST_POLL if waiting else 0)
        return found

    def _put(self, key: str, value: Any) -> None:
        self.store.set(key, json.dumps(value))

    def _get(self, key: str) -> Any:
        return json.loads(self.store.get(key))

    def _has(self, key: str) -> bool:
        return bool(self.store.check([key]))

    def _wait(self, keys: list[str], seconds: float) -> list[str]:
        """Those that are not there in time."""
        deadline, pause = monotonic() + seconds, _FIRST_POLL
        while keys and not self.store.check(keys):
            if monotonic() > deadline:
                return [key for key in keys if not self._has(key)]
            sleep(pause)
            pause = min(2 * pause, _LAST_POLL)
        return []


def open_meeting(here: Here) -> Meeting:
    """Where the ranks are to meet, as a run would. Raises Unheard where this one cannot come there."""
    place = here.place
    if place is None:
        raise Unheard("its place among the others is not known")
    if place.world_size == 1:
        return Meeting(place, here.seconds, None)
    try:
        where = meeting_point(here.variables, place.world_size)
        if not place.is_first:
            _knock(where.address, where.port, COMING_LIMITS * here.seconds)
        for_group = comm.open_store(place, COMING_LIMITS * here.seconds)
        store = dist.PrefixStore("doctor", comm.watch_store(place))
    except UsageError as error:
        raise Unheard(str(error), remedy="") from None
    except RuntimeError as error:  # its text goes on with the frames of C++
        raise Unheard(
            f"whoever listens at {where.address}:{where.port} does not answer as rank 0's store would: "
            f"{str(error).splitlines()[0]}"
        ) from None
    return Meeting(place, here.seconds, store, for_group)


def _knock(address: str, port: int, seconds: float) -> None:
    """Until somebody listens there; by plain sockets, because torch's store writes pages about each try. Raises Unheard
    where nobody does; a name that cannot be resolved is left to the store, which has the sentence for it."""
    deadline, last = monotonic() + seconds, OSError("no try was made")
    with suppress(socket.gaierror):
        while monotonic() < deadline:
            try:
                socket.create_connection((address, port), timeout=max(0.1, deadline - monotonic())).close()
                return
            except socket.gaierror:
                raise
            except OSError as error:
                last = error
                sleep(_LAST_POLL)
        raise Unheard(
            f"{socket.gethostname()} cannot reach {address}:{port}, where rank 0 is to be, in {seconds:g} s "
            f"({last.strerror or last}); expected rank 0 to listen there, and no firewall between"
        )


def absent_ranks(ranks: Iterable[int], questions: dict[int, str]) -> str:
    """ "ranks 2-3 (hello)", by what they did not answer."""
    by_question: dict[str, list[int]] = {}
    for rank in ranks:
        by_question.setdefault(questions[rank], []).append(rank)
    return ", ".join(f"{named_ranks(each)} ({question})" for question, each in by_question.items())
