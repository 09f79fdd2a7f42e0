"""Why a step updated nothing."""

from typing import Literal, NamedTuple

# overflow: not finite under fp16, whose loss scale may have been too high. spike: finite, an outlier. not finite: in
# another precision, where no later step can be expected to be better.
SkipReason = Literal["overflow", "spike", "not finite"]


class Skip(NamedTuple):
    """The reason in a word, and in a sentence without its full stop.

    `in_row`: how many steps in a row, with this one, were lost to the same without anything that would help the next:
    spikes since the last update, or overflows at the lowest loss scale. Too many of them end a run.
    """

    reason: SkipReason
    detail: str
    in_row: int = 0
