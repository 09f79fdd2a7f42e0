"""Which rank the others wait for, told from the ranks' own seconds over several intervals."""

from collections.abc import Sequence

from pretrain.metrics import RanksRecord, Slowest, slowest

FACTOR = 1.5  # of the median rank's own time
IN_A_ROW = 3  # intervals that are over it
# Where the slowest rank's lead is less than this share of a step, the others wait for something else.
LEAST_SHARE = 0.05
# A lead over the median that is smaller than this is none.
LEAST_LEAD = 1.05


class Stragglers:
    """Hears of every interval. `hosts`: of each rank."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self._hosts = hosts
        self._found: int | None = None  # in the last interval, and in how many in a row
        self._in_a_row = 0
        self._said: int | None = None
        self._intervals = 0
        self._begin_sums()

    def hear(self, record: RanksRecord) -> str | None:
        """A sentence where a rank holds up the others, or another one than before; said once."""
        self._add(record)
        slow = self._straggler(record)
        found = None if slow is None else slow.rank
        self._found, self._in_a_row = found, self._in_a_row + 1 if found == self._found else 1
        if self._in_a_row < IN_A_ROW or found == self._said:
            return None
        self._said = found
        if slow is None:
            return None
        return (
            f"{self._name(slow)} takes {slow.to_median:.1f} times the median rank's own time "
            f"({slow.own_seconds:.2g} s a step), and the others wait for it"
        )

    def summary(self) -> str | None:
        """Of all that was heard but the first interval, or of that where it is the only one, in a line; None where
        that is nothing."""
        if not self._seconds > 0:
            return None
        waited = f"data wait {self._waited / self._seconds:.1%} of the time"
        slow = slowest([own / max(1, self._known_steps) for own in self._own])
        if slow is None or slow.to_median < LEAST_LEAD:
            return waited.capitalize()
        return (
            f"Slowest: {self._name(slow)}, {slow.own_seconds:.2g} s of its own a step, {slow.to_median:.1f} times the "
            f"median rank's; {waited}"
        )

    def _begin_sums(self) -> None:
        self._seconds, self._waited = 0.0, 0.0
        self._own, self._known_steps = (
            [0.0] * len(self._hosts),
            0,
        )  # over the intervals in which all are known

    def _add(self, record: RanksRecord) -> None:
        if self._intervals == 1:
            self._begin_sums()  # a start's first steps compile, fill caches and wait for the first window
        self._intervals += 1
        self._seconds += record.steps * record.seconds
        self._waited += record.steps * max(record.data_wait_seconds)
        known = [own for own in record.own_seconds if own is not None]
        if len(known) == len(self._own):
            self._own = [before + record.steps * own for before, own in zip(self._own, known, strict=True)]
            self._known_steps += record.steps

    def _straggler(self, record: RanksRecord) -> Slowest | None:
        """The rank that is over the factor in this interval."""
        slow = record.slowest
        if slow is None or slow.to_median <= FACTOR:
            return None
        lead = slow.own_seconds - slow.own_seconds / slow.to_median
        return slow if lead > LEAST_SHARE * record.seconds else None

    def _name(self, slow: Slowest) -> str:
        return f"rank {slow.rank} on {self._hosts[slow.rank]}"
