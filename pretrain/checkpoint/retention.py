"""Which checkpoints stay when a new one is there."""

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Retention:
    """The newest `keep`, and for ever those of every `keep_every`-th step (0: none); with `best`, also the one that
    validated best."""

    keep: int
    keep_every: int = 0
    best: bool = False

    def superseded(self, steps: Collection[int], newest: int, best: int | None) -> list[int]:
        """Of the checkpoints' steps, those to remove, oldest first.

        What lies beyond `newest` is none of this course, and stays.
        """
        older = sorted(step for step in steps if step <= newest)
        return [
            step
            for step in older[: -self.keep]
            if step != best and not (self.keep_every and step % self.keep_every == 0)
        ]
