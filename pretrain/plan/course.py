"""How long a run is and what it computes: steps, rows, samples, tokens, epochs, FLOPs, rates, time."""

from dataclasses import dataclass
from math import ceil

from pretrain.config import Recipe
from pretrain.model.flops import TrainingFlops
from pretrain.optim import Progress, Schedule, scaled_lr
from pretrain.pace import run_length
from pretrain.plan.rate import Rate
from pretrain.plan.rows import RowFigures


@dataclass(frozen=True)
class BatchFigures:
    """One step of so many rows. A packed row holds more than one sample, and published batch sizes count samples.
    `layer_flops`: of the layers, among `flops`."""

    steps: int
    rows: int
    samples: float
    tokens: float  # real ones
    places: int  # tokens with padding
    masked: float
    flops: float
    layer_flops: float


@dataclass(frozen=True)
class Course:
    """A whole run. `batches`: the stages of train.batch_stages, and that of train.global_batch. `ended_by`: the recipe
    key whose limit comes first."""

    batches: tuple[BatchFigures, ...]
    ended_by: str
    epochs: tuple[float, ...]  # over each store
    seconds: float | None

    def total(self, name: str) -> float:
        """Over all steps: rows, samples, tokens, masked or flops."""
        return sum(float(each.steps * getattr(each, name)) for each in self.batches)

    @property
    def steps(self) -> int:
        return sum(each.steps for each in self.batches)


@dataclass(frozen=True)
class RatePoint:
    """The learning rate of one step."""

    step: int  # from 1
    what: str
    lr: float


def plan_course(recipe: Recipe, rows: RowFigures, flops: TrainingFlops, rate: Rate | None) -> Course:
    """The run by what its rows hold on average; train.hours counts where the rate is known."""
    steps, ended_by = _steps(recipe, rows, rate)
    plan = recipe.train.batch_plan
    sizes = [*((count, size) for count, size in plan.stages), (steps, plan.global_batch)]
    batches, left = [], steps
    for count, size in sizes:
        taken = min(count, left)
        left -= taken
        if taken:
            batches.append(batch_figures(taken, size, rows, flops))
    tokens = sum(each.steps * each.tokens for each in batches)
    return Course(
        batches=tuple(batches),
        ended_by=ended_by,
        epochs=rows.epochs(plan.rows_in(steps)),
        seconds=None if rate is None else tokens / rate.tokens_per_second,
    )


def batch_figures(steps: int, size: int, rows: RowFigures, flops: TrainingFlops) -> BatchFigures:
    """`steps` of `size` rows each. FLOPs as the run's own metrics count them."""
    samples, tokens, masked = (
        size * mean for mean in (rows.samples_per_row, rows.tokens_per_row, rows.masked_per_row)
    )
    attended = rows.attended_per_row / rows.tokens_per_row
    of_step = flops.step(round(tokens), round(masked), attended, round(size * rows.pairs_per_row))
    of_layers = flops.step(round(tokens), 0, attended)
    return BatchFigures(steps, size, samples, tokens, size * rows.seq_len, masked, of_step, of_layers)


def _steps(recipe: Recipe, rows: RowFigures, rate: Rate | None) -> tuple[int, str]:
    """How many steps the run has, and by which key; rows that are not full take more of them to reach train.tokens."""
    train, plan = recipe.train, recipe.train.batch_plan
    limits = [] if train.steps is None else [(train.steps, "train.steps")]
    if train.tokens is not None:
        limits.append((plan.steps_for(train.tokens / rows.tokens_per_row), "train.tokens"))
    if train.hours is not None and rate is not None:
        tokens = 3600 * train.hours * rate.tokens_per_second
        limits.append((max(1, plan.steps_for(tokens / rows.tokens_per_row)), "train.hours"))
    return min(limits)


def rate_points(
    recipe: Recipe, schedule: Schedule, course: Course, rows: RowFigures
) -> tuple[RatePoint, ...]:
    """The first step, where a stage of the batch begins, where warm-up ends, halfway from there, and the last."""
    total, plan, length = course.steps, recipe.train.batch_plan, run_length(recipe)
    peak = min(max(1, schedule.warmup_steps), total)
    named = {1: "first step"}
    done = 0
    for count, size in plan.stages:
        done += count
        if done < total:
            named[done + 1] = f"first after {count} steps of {size} rows"
    named |= {peak: "warm-up is over"} if schedule.warmup_steps else {}
    named |= {ceil((peak + total) / 2): "halfway from there", total: "last step"}

    def rate_of(step: int) -> float:
        tokens = round(plan.rows_in(step - 1) * rows.tokens_per_row)
        lr = schedule(step - 1, length.share(Progress(step - 1, tokens)))
        return scaled_lr(lr, recipe.optimizer.lr_scaling, plan.rows_of(step - 1), plan.global_batch)

    return tuple(
        RatePoint(step, what, rate_of(step)) for step, what in sorted(named.items()) if step <= total
    )
