"""What a run was asked to do, when everything has been decided."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pretrain.config.engine import FSDP_HINTS, HINTS, EngineConfig
from pretrain.config.recipe import Recipe

# What a ds_config may say about the batch.
_BATCH_KEYS = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")


@dataclass(frozen=True)
class EarlierCut:
    """How the run that a checkpoint is of cut its batches, and what it had been told about them.

    A run that goes on with another number of ranks, and is told the same, keeps the global batch.
    """

    ranks: int
    global_batch: int
    micro_batch: int
    said: Mapping[str, Any]

    @classmethod
    def of(cls, run_config: Mapping[str, Any], written_by: Mapping[str, Any]) -> Self | None:
        """By what a checkpoint says of its run; None where it does not say all of it."""
        try:
            ranks, micro_batch = written_by["ranks"], written_by["micro_batch"]
            recipe, engine = run_config["recipe"], run_config["ds_config"]
            global_batch = recipe["train"]["global_batch"]
            said = _said(recipe, engine)
        except (KeyError, TypeError):
            return None
        numbers = ranks, global_batch, micro_batch
        if not all(isinstance(number, int) and number > 0 for number in numbers):
            return None
        return cls(*numbers, said)

    def is_said_again(self, config: "RunConfig") -> bool:
        """Whether that configuration, with the global batch of the checkpoint, says the same about batches."""
        content = config.as_dict()
        same = _said(content["recipe"], content["ds_config"]) == self.said
        return same and config.recipe.train.global_batch == self.global_batch


def _said(recipe: Mapping[str, Any], engine: Mapping[str, Any]) -> dict[str, Any]:
    train = recipe["train"]
    found = {key: engine[key] for key in _BATCH_KEYS}
    return found | {key: train[key] for key in ("micro_batch", "batch_stages")}


@dataclass(frozen=True)
class RunConfig:
    """Everything that was decided. `origins` says where each recipe value that is no default came from."""

    recipe: Recipe
    engine: EngineConfig
    origins: dict[str, str]
    kept: EarlierCut | None = None  # the run goes on with its global batch on another number of ranks

    def as_dict(self) -> dict[str, Any]:
        """Plain data for config.json."""
        return {
            "recipe": self.recipe.model_dump(),
            "ds_config": self.engine.model_dump(),
            "origins": self.origins,
        }

    def unused_hints(self) -> list[str]:
        """Keys of the ds_config that speak to DeepSpeed alone and change no result."""
        given = self.engine.zero_optimization.given()
        return [f"zero_optimization.{name}" for name in HINTS if name in given and name not in FSDP_HINTS]
