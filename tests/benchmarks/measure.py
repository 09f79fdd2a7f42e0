"""Peers side by side: each does the same work by its own means, in turns, several times.

1. every round runs all peers, each odd round in the opposite order, so that a machine that grows slower or
   busier does so for all of them;
2. a peer that cannot run says why and is left out of the later rounds;
3. the median of a peer's rounds is its rate, the lowest and highest are its spread.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_READ_BYTES = 1 << 24


class NotRun(Exception):
    """A peer cannot run here; the message is a sentence that says why."""


@dataclass(frozen=True)
class Trial:
    """One run of a peer: `amount` (bytes or tokens) in `seconds`, start-up apart where the peer has one.

    `cpu_seconds`: user and system time of all its processes within the same span; None where only the whole
    is known. `details` goes into the JSON as it is.
    """

    amount: int
    seconds: float
    cpu_seconds: float | None = None
    startup_seconds: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Amount per second."""
        return self.amount / self.seconds


@dataclass(frozen=True)
class Peer:
    """`run(round)` does the work once; `asked` is what our rate over its rate should be: (floor, aim)."""

    name: str
    run: Callable[[int], Trial]
    is_ours: bool = False
    asked: tuple[float, float] | None = None
    note: str = ""


@dataclass(frozen=True)
class Summary:
    """What is known of a peer after all rounds; no trials and a `reason` where it was not run."""

    peer: Peer
    trials: tuple[Trial, ...]
    reason: str = ""

    @property
    def rate(self) -> float:
        return statistics.median(trial.rate for trial in self.trials)

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest rate."""
        rates = [trial.rate for trial in self.trials]
        return min(rates), max(rates)

    def median(self, value: Callable[[Trial], float | None]) -> float | None:
        """Of a value of the trials; None where no trial has it."""
        known = [found for found in map(value, self.trials) if found is not None]
        return statistics.median(known) if known else None


def alternate(peers: Sequence[Peer], rounds: int, say: Callable[[str], None]) -> list[Summary]:
    """All peers, `rounds` times, in turns; summaries in the order of the peers."""
    trials: dict[str, list[Trial]] = {peer.name: [] for peer in peers}
    reasons: dict[str, str] = {}
    for number in range(rounds):
        for peer in peers if number % 2 == 0 else reversed(peers):
            if peer.name in reasons:
                continue
            try:
                trial = peer.run(number)
            except NotRun as error:
                reasons[peer.name] = str(error)
                say(f"{peer.name}: not run: {error}")
                continue
            trials[peer.name].append(trial)
            say(f"round {number + 1} of {rounds}, {peer.name}: {trial.seconds:.2f} s")
    return [Summary(peer, tuple(trials[peer.name]), reasons.get(peer.name, "")) for peer in peers]


def ratio(ours: Summary, peer: Summary) -> float | None:
    """Our median rate over the peer's; None where either was not run."""
    return ours.rate / peer.rate if ours.trials and peer.trials else None


def read_once(paths: Iterable[Path]) -> None:
    """Brings files into the page cache: what is measured is work, not this machine's disk."""
    for path in paths:
        with suppress(FileNotFoundError), path.open("rb", buffering=0) as file:
            while file.read(_READ_BYTES):
                pass
