"""How many rows each step takes: batch-size warm-up by stages (Smith et al. 2018, arXiv 1711.00489, raise the batch
where others lower the rate), then one batch to the end.

Stages go by finished steps, applied or skipped, and by nothing else: which rows a step takes is still a function of
the recipe alone, and a run that goes on in the middle of a stage goes on in that stage.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from math import ceil


@dataclass(frozen=True)
class BatchPlan:
    """`stages`: (steps, rows of each), one after another; every later step takes `global_batch` rows."""

    global_batch: int
    stages: tuple[tuple[int, int], ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """All global batches that there are, in order."""
        return (*(rows for _, rows in self.stages), self.global_batch)

    @property
    def staged_steps(self) -> int:
        """Steps before those of `global_batch`."""
        return sum(steps for steps, _ in self.stages)

    def rows_of(self, step: int) -> int:
        """Rows of the step that follows `step` finished ones."""
        for steps, rows in self.stages:
            if step < steps:
                return rows
            step -= steps
        return self.global_batch

    def rows_from(self, step: int) -> Iterator[int]:
        """Rows of the step that follows `step` finished ones, of the next, and so on for ever."""
        return map(self.rows_of, count(step))

    def rows_in(self, steps: int) -> int:
        """Rows of that many first steps together."""
        total = 0
        for count_of_stage, rows in self.stages:
            taken = min(count_of_stage, steps)
            total, steps = total + taken * rows, steps - taken
        return total + steps * self.global_batch

    def steps_for(self, rows: float) -> int:
        """How many steps, from the first, take that many rows or more."""
        done = 0
        for steps, size in self.stages:
            if rows <= steps * size:
                return done + ceil(rows / size)
            done, rows = done + steps, rows - steps * size
        return done + ceil(rows / self.global_batch)
