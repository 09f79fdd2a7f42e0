"""What this process is doing, as its main thread says it by plain assignment."""

from collections.abc import Callable
from typing import NamedTuple

ENDING = "ending"


class Doing(NamedTuple):
    """`turn` counts what all ranks do alike, so a rank with a lower one is behind; `step` is None before the first."""

    turn: int
    step: int | None
    what: str

    @property
    def text(self) -> str:
        return self.what if self.step is None else f"step {self.step}: {self.what}"


class Activity:
    """Read by the watchdog; no lock, no clock: it costs the training nothing."""

    def __init__(self) -> None:
        self.doing = Doing(0, None, "starting")
        self.advances = 0
        self._told: Callable[[str], None] | None = None

    def tell(self, listener: Callable[[str], None] | None) -> None:
        """From now on `listener`, if any, hears in the main thread what begins there."""
        self._told = listener

    def now(self, what: str, step: int | None = None) -> None:
        """The main thread begins something that every rank does in the same order; the step stays if none is said."""
        turn, last_step, _ = self.doing
        self.doing = Doing(turn + 1, last_step if step is None else step, what)
        if self._told is not None:
            self._told(what)

    def advance(self) -> None:
        """Something long goes on: a file grows, a text is read. Of this rank alone, and from any thread."""
        self.advances += 1

    @property
    def moves(self) -> tuple[int, int]:
        """Changes whenever something was done."""
        return self.doing.turn, self.advances
