"""What is tried and what came of it: a row of the matrix is one fault, tried in several ways and counted."""

import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Literal

from pretrain.faults.bench import Bench

MAX_SEEN = 5  # reds of a row that are told in words
_MAX_CHARACTERS = 6000


class Red(Exception):
    """A promise was not kept; the message says what was seen instead."""


class NotHere(Exception):
    """This machine cannot try it; the message says why."""


@dataclass(frozen=True)
class Try:
    """One fault once. `act` raises Red where the promise is not kept, NotHere where it cannot be tried."""

    what: str
    act: Callable[[], object]


@dataclass(frozen=True)
class Row:
    """A fault and what is promised of it. `tries` may do what they share between them; a sample of them unless
    the bench says in full."""

    name: str
    fault: str
    promise: str
    tries: Callable[[Bench], Iterator[Try]]


@dataclass(frozen=True)
class Outcome:
    """What came of a row. `seen`: of the first reds, what was seen. `not_run`: why some or all could not be tried."""

    name: str
    tried: int
    green: int
    seconds: float
    seen: tuple[str, ...]
    not_run: tuple[str, ...]

    @property
    def state(self) -> Literal["green", "red", "not run"]:
        """Nothing that was not tried is green."""
        if self.green < self.tried:
            return "red"
        return "green" if self.tried else "not run"


def expect(kept: object, seen: str) -> None:
    """Raises Red with what was seen unless a promise was kept. (No `assert`, which `python -O` leaves out.)"""
    if not kept:
        raise Red(seen)


def only(found: list[str], what: str) -> str:
    """The one element. Raises Red where there are none or more."""
    expect(len(found) == 1, f"{len(found)} {what} where there should be one: {found}")
    return found[0]


def outcome_of(row: Row, bench: Bench) -> Outcome:
    """Tries everything; a red one does not keep the others from being tried."""
    began = monotonic()
    tried = green = 0
    seen: list[str] = []
    not_run: list[str] = []
    tries = row.tries(bench)
    while True:
        what = "preparing"
        try:
            each = next(tries)
            what = each.what
            each.act()
            green += 1
        except StopIteration:
            break
        except NotHere as reason:
            not_run.append(str(reason))
            continue
        except Exception as error:
            if len(seen) < MAX_SEEN:
                seen.append(f"{what}: {_told(error)}"[:_MAX_CHARACTERS])
        tried += 1
    return Outcome(row.name, tried, green, monotonic() - began, tuple(seen), tuple(dict.fromkeys(not_run)))


def _told(error: Exception) -> str:
    """A promise not kept in its own words; anything else with the place it came from."""
    if isinstance(error, Red):
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"
