"""How far a run is, and when it ends: by steps, by tokens, by the clock, whichever comes first."""

from dataclasses import dataclass

from pretrain.config import BatchPlan

_WITHOUT_STAGES = BatchPlan(1)


@dataclass(frozen=True)
class Progress:
    """What a run has behind it, over all its starts; the same on every rank."""

    steps: int = 0
    tokens: int = 0  # real ones, as metrics.jsonl counts them
    seconds: float = 0.0  # of training, validation and saving
    skipped_tokens: int = 0  # of those tokens, what lay in steps that updated nothing


@dataclass(frozen=True)
class RunLength:
    """The limits of a run; None is none. One of steps and tokens is given, because the rate decays by them.

    `planned_steps`: of steps and tokens, what is reached first, if rows are full; the schedule's total. `batches`: the
    rows of each step, relative to each other; only stages that differ matter.
    """

    planned_steps: int
    steps: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    batches: BatchPlan = _WITHOUT_STAGES

    def reached(self, progress: Progress) -> str | None:
        """The recipe key whose limit is reached, or None while the run goes on."""
        limits = (
            ("train.steps", self.steps, progress.steps),
            ("train.tokens", self.tokens, progress.tokens),
            ("train.hours", self.seconds, progress.seconds),
        )
        return next((key for key, limit, done in limits if limit is not None and done >= limit), None)

    def share(self, progress: Progress) -> float | None:
        """How much of the run is done, of steps or of tokens, whichever is further; None where steps alone count.

        The clock has no part in it: a rate that depends on the machine's speed could not be reproduced.
        """
        if self.tokens is None:
            return None
        by_steps = 0.0 if self.steps is None else progress.steps / self.steps
        return min(1.0, max(by_steps, progress.tokens / self.tokens))

    def expected_steps(self, progress: Progress) -> int:
        """Of the whole run, if its rows go on to hold what those that are done hold; the clock left out."""
        if self.tokens is None or not progress.tokens:
            return self.planned_steps
        by_tokens = self.batches.steps_for(
            self.batches.rows_in(progress.steps) * self.tokens / progress.tokens
        )
        return by_tokens if self.steps is None else min(by_tokens, self.steps)
