"""Why a step updated nothing."""

from typing import Literal, NamedTuple

# overflow: not finite under fp16, whose loss scale may have been too high. spike: finite, an outlier. not finite: in
# another precision, where no later step can be expected to be better.
SkipReason = Literal["overflow", "spike", "not finite"]


class Skip(NamedTuple):
    """The reason in a word, and in a sentence without its full stop."""

    reason: SkipReason
    detail: str
