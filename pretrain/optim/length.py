"""How far a run is, and when it ends: by steps, by tokens, by the clock, by validation, whichever comes first."""

from dataclasses import dataclass, replace
from math import isfinite

from pretrain.config import BatchPlan

_WITHOUT_STAGES = BatchPlan(1)


@dataclass(frozen=True)
class Validations:
    """What came of a run's validations, by their MLM loss in nats; where nobody looks for the best, nothing.

    An improvement is measured from `mark`, the loss of the last one, so that many small steps down add up to one.
    """

    best_step: int | None = None
    best_loss: float | None = None
    mark: float | None = None
    without_improvement: int = 0  # in a row, since the mark
    last_step: int | None = None  # of the last one that is counted here

    def after(self, step: int, loss: float, min_improvement: float) -> "Validations":
        """With one more; an improvement lies more than `min_improvement` below the mark."""
        if not isfinite(loss):
            return replace(self, without_improvement=self.without_improvement + 1, last_step=step)
        is_best = self.best_loss is None or loss < self.best_loss
        improves = self.mark is None or loss < self.mark - min_improvement
        return Validations(
            best_step=step if is_best else self.best_step,
            best_loss=loss if is_best else self.best_loss,
            mark=loss if improves else self.mark,
            without_improvement=0 if improves else self.without_improvement + 1,
            last_step=step,
        )

    def without_the_best(self) -> "Validations":
        """What is known where the best checkpoint is not at hand: the next validation is the best; nothing else
        changes."""
        return replace(self, best_step=None, best_loss=None)


@dataclass(frozen=True)
class Progress:
    """What a run has behind it, over all its starts; the same on every rank."""

    steps: int = 0
    tokens: int = 0  # real ones, as metrics.jsonl counts them
    seconds: float = 0.0  # of training, validation and saving
    skipped_tokens: int = 0  # of those tokens, what lay in steps that updated nothing
    validations: Validations = Validations()


@dataclass(frozen=True)
class RunLength:
    """The limits of a run; None is none. One of steps and tokens is given, because the rate decays by them.

    `planned_steps`: of steps and tokens, what is reached first, if rows are full; the schedule's total. `batches`: the
    rows of each step, relative to each other; only stages that differ matter. `patience`: validations in a row without
    improvement.
    """

    planned_steps: int
    steps: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    batches: BatchPlan = _WITHOUT_STAGES
    patience: int | None = None

    def reached(self, progress: Progress) -> str | None:
        """The recipe key whose limit is reached, or None while the run goes on."""
        limits = (
            ("train.steps", self.steps, progress.steps),
            ("train.tokens", self.tokens, progress.tokens),
            ("train.hours", self.seconds, progress.seconds),
            ("eval.patience", self.patience, progress.validations.without_improvement),
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
