"""CPU time by stage of the work, so that the next bottleneck is visible."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class CpuClock:
    """CPU seconds of the calling thread by name of stage."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._seconds_inside = 0.0  # of stages within the running one

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Counts what is done inside, but for stages timed within."""
        began, before = time.thread_time(), self._seconds_inside
        self._seconds_inside = 0.0
        try:
            yield
        finally:
            spent = time.thread_time() - began
            self.seconds[stage] += spent - self._seconds_inside
            self._seconds_inside = before + spent

    def add(self, seconds: Mapping[str, float]) -> None:
        """Counts what another clock has counted."""
        for stage, value in seconds.items():
            self.seconds[stage] += value
