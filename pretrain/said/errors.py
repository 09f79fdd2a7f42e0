"""Which lines of a rank's stderr are an error that must reach the terminal: tracebacks, and sentences of ours."""

import re
from time import monotonic

# As Python, its threads, torch's own hook and this program begin them.
_BEGINS = re.compile(
    r"(?:\[rank\d+\]: ?)?(?:Traceback \(most recent call last\)|error: |Exception (?:in thread|ignored in)|Fatal )"
    r"|(?:\w+\.)*\w*(?:Error|Exception|Interrupt)(?::|$)"
)
# A message may have any number of lines, and none of them is like the others; so what follows at once belongs to it.
SAME_ERROR_SECONDS = 1.0


class ErrorLines:
    """Hears the lines one after the other."""

    def __init__(self) -> None:
        self._last = float("-inf")

    def takes(self, line: str) -> bool:
        """Whether the line begins an error or follows one at once."""
        now = monotonic()
        is_one = _BEGINS.match(line) is not None or now - self._last < SAME_ERROR_SECONDS
        if is_one:
            self._last = now
        return is_one
