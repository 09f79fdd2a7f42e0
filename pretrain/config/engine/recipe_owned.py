"""The blocks that say what the recipe says: optimizer and scheduler, by DeepSpeed's names."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pretrain.config.engine.block import Auto, Block


class OptimizerParams(Block):
    """Hyper-parameters by DeepSpeed's names."""

    lr: float | Auto = "auto"
    betas: list[float] | Auto = "auto"
    eps: float | Auto = "auto"
    weight_decay: float | Auto = "auto"
    bias_correction: bool | Auto = "auto"
    momentum: float | Auto = "auto"
    nesterov: bool | Auto = "auto"
    max_coeff: float | Auto = "auto"
    min_coeff: float | Auto = "auto"
    torch_adam: bool | None = None
    adam_w_mode: Literal[True] | None = None


_REFUSED_OPTIMIZERS = {
    **dict.fromkeys(
        ("OneBitAdam", "ZeroOneAdam", "OneBitLamb"),
        "it compresses gradients to one bit, which is another course; use Adam or Lamb",
    ),
    **dict.fromkeys(
        ("Muon", "Lion", "Adagrad", "MuAdam", "MuAdamW", "MuSGD"),
        "it is not carried; use Lamb, Adam, AdamW or SGD",
    ),
}


class OptimizerBlock(Block):
    """DeepSpeed's `Adam` is AdamW unless told otherwise, and is read so."""

    type: Literal["Lamb", "FusedLamb", "Adam", "AdamW", "SGD"]
    params: OptimizerParams = OptimizerParams()

    @field_validator("type", mode="before")
    @classmethod
    def _carried(cls, name: Any) -> Any:
        if isinstance(name, str) and name in _REFUSED_OPTIMIZERS:
            raise ValueError(_REFUSED_OPTIMIZERS[name])
        return name


OPTIMIZER_TYPES = {"Lamb": "lamb", "FusedLamb": "lamb", "Adam": "adamw", "AdamW": "adamw", "SGD": "sgd"}


class SchedulerParams(Block):
    """Parameters of DeepSpeed's schedulers that have a schedule of their form here.

    What is left out is the recipe's to say, as with `"auto"`: DeepSpeed's own defaults do not hold.
    """

    warmup_min_lr: Literal[0, "auto"] | Annotated[float, Field(ge=0, le=0)] = "auto"
    warmup_max_lr: float | Auto = "auto"
    warmup_num_steps: int | Auto = "auto"
    total_num_steps: int | Auto = "auto"
    warmup_type: Literal["linear", "log", "auto"] = "auto"
    warmup_min_ratio: Literal[0, "auto"] | Annotated[float, Field(ge=0, le=0)] = "auto"
    cos_min_ratio: float | Auto = "auto"


# DeepSpeed's schedulers and the schedules of their form.
SCHEDULER_TYPES = {"WarmupLR": "constant", "WarmupDecayLR": "linear", "WarmupCosineLR": "cosine"}
_REFUSED_SCHEDULERS = {
    "OneCycle": "it cycles rate and momentum, which is not carried; leave the block out and say schedule.name, "
    "schedule.warmup and optimizer.lr in the recipe",
    "LRRangeTest": "a range test is no training; leave the block out and start a short run for each optimizer.lr",
}
_COSINE_PARAMS = frozenset({"warmup_min_ratio", "cos_min_ratio"})
_RATE_PARAMS = frozenset({"warmup_min_lr", "warmup_max_lr"})
_FOREIGN_PARAMS = {
    "WarmupLR": _COSINE_PARAMS | {"total_num_steps"},
    "WarmupDecayLR": _COSINE_PARAMS,
    "WarmupCosineLR": _RATE_PARAMS,
}


class SchedulerBlock(Block):
    """A scheduler of DeepSpeed, as the schedule of its form (see ds_configs/README.md for the steps between them)."""

    type: Literal["WarmupLR", "WarmupDecayLR", "WarmupCosineLR"]
    params: SchedulerParams = SchedulerParams()

    @field_validator("type", mode="before")
    @classmethod
    def _carried(cls, name: Any) -> Any:
        if isinstance(name, str) and name in _REFUSED_SCHEDULERS:
            raise ValueError(_REFUSED_SCHEDULERS[name])
        return name

    @model_validator(mode="after")
    def _own_params(self) -> Self:
        foreign = sorted(_FOREIGN_PARAMS[self.type] & self.params.model_fields_set)
        if foreign:
            raise ValueError(f"{self.type} has no parameter {foreign[0]}; leave it out")
        return self
