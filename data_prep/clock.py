"""CPU time by stage of the work, so that the next bottleneck is visible."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class CpuClock:
    """CPU seconds of the calling thread by name of stage."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Counts what is done inside."""
        began = time.thread_time()
        try:
            yield
        finally:
            self.seconds[stage] += time.thread_time() - began

    def add(self, seconds: Mapping[str, float]) -> None:
        """Counts what another clock has counted."""
        for stage, value in seconds.items():
            self.seconds[stage] += value
