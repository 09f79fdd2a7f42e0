"""Keys of the recipe that have a meaning only beside a certain value of another key.

A key that is said where it would have no effect is refused, because whoever wrote it expected one. What only the
default recipe says is no such key: it gives way to whatever is said elsewhere.
"""

from collections.abc import Mapping

from pretrain.config.layers import EXCLUSIVE, Said
from pretrain.config.recipe import Recipe
from pretrain.errors import UsageError

ADAM = ("lamb", "adamw")
# The key that chooses, and for each key that belongs to some of its values, those values.
BELONGING: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "optimizer.name": {
        **dict.fromkeys(("optimizer.variant", "optimizer.min_trust", "optimizer.max_trust"), ("lamb",)),
        **dict.fromkeys(("optimizer.trust_1d", "log.parameters_every"), ("lamb",)),
        **dict.fromkeys(("optimizer.beta1", "optimizer.beta2", "optimizer.eps"), ADAM),
        "optimizer.bias_correction": ADAM,
        **dict.fromkeys(("optimizer.momentum", "optimizer.nesterov"), ("sgd",)),
    },
    "optimizer.lr_scaling": {"optimizer.base_batch": ("linear", "sqrt")},
    "schedule.name": {
        "schedule.power": ("polynomial", "nvidia-polynomial"),
        **dict.fromkeys(("schedule.decay_rate", "schedule.decay_every"), ("step", "exponential")),
        **dict.fromkeys(
            ("schedule.end_lr", "schedule.end_share"),
            ("linear", "polynomial", "nvidia-polynomial", "cosine", "exponential"),
        ),
    },
}


def check_belonging(recipe: Recipe, said: Mapping[str, Said], default_place: str) -> None:
    """Raises UsageError for a key that is said without effect, or that is missing where its like is needed.

    Places that begin with `default_place` are those of the default recipe.
    """
    chosen = {key: each for key, each in said.items() if not each.place.startswith(default_place)}
    for choice, members in BELONGING.items():
        section, _, name = choice.partition(".")
        value = getattr(getattr(recipe, section), name)
        for key, values in members.items():
            if key in chosen and value not in values:
                raise UsageError(f"{chosen[key].place}: {key} belongs to {_listed(values)}, not to {value}.")
    for group in EXCLUSIVE:
        found = sorted(group & said.keys())
        if len(found) > 1 and not found[0].startswith("model."):  # the model has a sentence of its own
            raise UsageError(
                f"{said[found[0]].place} says {found[0]} and {said[found[1]].place} says {found[1]}: they "
                "exclude each other, say one."
            )
    if "train.spike_window" in chosen and recipe.train.spike_factor is None:
        raise UsageError(
            f"{chosen['train.spike_window'].place}: train.spike_window has no meaning alone: say train.spike_factor, "
            "how many medians of that window a gradient norm may be."
        )
    if "phase.moments" in chosen and recipe.phase.checkpoint is None:
        raise UsageError(
            f"{chosen['phase.moments'].place}: phase.moments has no meaning alone: say phase.checkpoint too."
        )
    if recipe.phase.moments == "nvidia-kept" and recipe.optimizer.name not in ADAM:
        raise UsageError(
            f"{said['phase.moments'].place}: phase.moments nvidia-kept belongs to {_listed(ADAM)}, whose bias "
            f"correction it begins anew, not to {recipe.optimizer.name}: say kept or reset."
        )
    if recipe.log.graph_breaks and not recipe.train.compile:
        raise UsageError(
            "log.graph_breaks lists where compiled layers are interrupted: say train.compile=true too."
        )
    if "eval.min_improvement" in chosen and recipe.eval.patience is None:
        raise UsageError(
            f"{chosen['eval.min_improvement'].place}: eval.min_improvement has no meaning alone: say eval.patience, "
            "how many validations in a row may fall short of it."
        )
    _check_missing(recipe)


def _check_missing(recipe: Recipe) -> None:
    """Keys that have no default and are needed by what is chosen."""
    schedule, optimizer, train = recipe.schedule, recipe.optimizer, recipe.train
    if schedule.name in ("step", "exponential"):
        for key in ("decay_rate", "decay_every"):
            if getattr(schedule, key) is None:
                raise UsageError(
                    f"schedule.{key} is missing: the schedule {schedule.name} multiplies the rate by "
                    "schedule.decay_rate once in schedule.decay_every steps; say both."
                )
    if optimizer.lr_scaling != "none" and optimizer.base_batch is None and not train.batch_stages:
        raise UsageError(
            f"optimizer.base_batch is missing: with optimizer.lr_scaling {optimizer.lr_scaling} it says at how many "
            "samples per step optimizer.lr was found."
        )
    if train.batch_stages and train.batch_plan.staged_steps >= recipe.planned_steps:
        raise UsageError(
            f"train.batch_stages take {train.batch_plan.staged_steps} steps but the run has {recipe.planned_steps}: "
            "they must leave steps to train.global_batch."
        )
    if recipe.looks_for_best and not recipe.eval.every:
        key = "checkpoint.best" if recipe.checkpoint.best else "eval.patience"
        raise UsageError(f"eval.every is missing: {key} goes by validations, and eval.every says how often.")
    if optimizer.nesterov and not optimizer.momentum:
        raise UsageError("optimizer.nesterov needs a momentum: set optimizer.momentum above 0.")
    if recipe.warmup_steps > recipe.planned_steps and schedule.warmup_samples is None:
        length = "train.steps is" if train.tokens is None else "by train.tokens the run has"
        raise UsageError(
            f"schedule.warmup is {recipe.warmup_steps} steps but {length} {recipe.planned_steps}: warm-up must end "
            "within the run."
        )


def _listed(values: tuple[str, ...]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(part for part in (", ".join(values[:-1]), values[-1]) if part)
