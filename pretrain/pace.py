"""How long a run is and at which rate it learns, from its recipe."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from pretrain.config import Recipe
from pretrain.errors import UsageError
from pretrain.optim import Progress, RunLength, Schedule, scaled_lr


def build_schedule(recipe: Recipe, samples_per_step: Callable[[], float]) -> tuple[Schedule, dict[str, Any]]:
    """The learning rate of every step, and for config.json what it was resolved to and from what.

    `samples_per_step` is asked only where a key counts samples.

    Raises UsageError where a warm-up in samples is longer than the run, or the rate would end above its peak.
    """
    section, optimizer, total_steps = recipe.schedule, recipe.optimizer, recipe.planned_steps
    peak, warmup_steps, resolved = optimizer.lr, recipe.warmup_steps, dict[str, Any]()
    origin = "optimizer.lr"
    if optimizer.base_batch is not None or section.warmup_samples is not None:
        samples = samples_per_step()
        resolved["samples_per_step"] = samples
        if optimizer.base_batch is not None:
            peak = scaled_lr(optimizer.lr, optimizer.lr_scaling, samples, optimizer.base_batch)
            origin = (
                f"optimizer.lr = {optimizer.lr:g} at optimizer.base_batch = {optimizer.base_batch} samples per step, "
                f"scaled to {samples:g} by optimizer.lr_scaling = {optimizer.lr_scaling}"
            )
        if section.warmup_samples is not None:
            rows = section.warmup_samples / samples * recipe.train.global_batch
            warmup_steps = recipe.train.batch_plan.steps_for(rows)
            if warmup_steps > total_steps:
                raise UsageError(
                    f"schedule.warmup_samples is {section.warmup_samples}, which are {warmup_steps} steps "
                    f"({samples:.0f} samples at train.global_batch), but the run has {total_steps}: warm-up must "
                    "end within it."
                )
    if recipe.train.batch_stages and optimizer.lr_scaling != "none":
        origin += f"; train.batch_stages scale it to the rows of each by {optimizer.lr_scaling}"
    full_rows = recipe.train.batch_plan.rows_in(warmup_steps) * recipe.data.seq_len
    end_lr = section.end_lr if section.end_share is None else section.end_share * peak
    if end_lr > peak:
        raise UsageError(
            f"schedule.end_lr is {end_lr:g}, above the peak rate {peak:g} ({origin}): the rate would rise to the end; "
            "lower schedule.end_lr or raise optimizer.lr."
        )
    schedule = Schedule(
        section.name,
        peak_lr=peak,
        total_steps=total_steps,
        warmup_steps=warmup_steps,
        power=section.power,
        end_lr=end_lr,
        decay_rate=1.0 if section.decay_rate is None else section.decay_rate,
        decay_steps=recipe.decay_steps,
        warmup_shape=section.warmup_shape,
        warmup_share=run_length(recipe).share(Progress(warmup_steps, full_rows)),
    )
    return schedule, asdict(schedule) | resolved | {"peak_lr_origin": origin}


def run_length(recipe: Recipe) -> RunLength:
    """The limits of the run."""
    train = recipe.train
    seconds = None if train.hours is None else 3600.0 * train.hours
    return RunLength(
        recipe.planned_steps, train.steps, train.tokens, seconds, train.batch_plan, recipe.eval.patience
    )
