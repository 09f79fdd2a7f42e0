"""The blocks of numbers: in which precision the passes compute, and how fp16's loss scale moves."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from pretrain.config.engine.block import Auto, Block, PositiveInt

# At a lower one fp16 rounds a gradient of 1 to 0; and the inverse of one below 2^-128 would be no float32.
_LOWEST_SCALE = 2.0**-24


def _no_lower(scale: float) -> float:
    if 0 < scale < _LOWEST_SCALE:
        raise ValueError(
            "a scale should be 2 to the power of -24 or more: at a lower one fp16 has no gradients"
        )
    return scale


class Bf16(Block):
    """bfloat16 compute over fp32 master weights; `auto`: where the hardware does it fast."""

    enabled: bool | Auto = False


class Fp16(Block):
    """fp16 compute over fp32 master weights (`auto`: no) and its loss scale, with DeepSpeed's names and defaults.

    `loss_scale` 0 is a dynamic one, which the other keys govern (see `LossScaler`). `auto_cast` has nothing to
    do: the model's inputs are integers.
    """

    enabled: bool | Auto = False
    auto_cast: bool | None = None
    loss_scale: Annotated[float, Field(ge=0, le=2.0**126), AfterValidator(_no_lower)] = 0.0
    initial_scale_power: Annotated[int, Field(ge=0, le=126)] = 16
    loss_scale_window: PositiveInt = 1000
    hysteresis: PositiveInt = 2
    consecutive_hysteresis: bool = False
    min_loss_scale: Annotated[float, Field(gt=0), AfterValidator(_no_lower)] = 1.0

    @model_validator(mode="after")
    def _starts_above_its_floor(self) -> Self:
        if self.loss_scale == 0 and self.min_loss_scale > 2.0**self.initial_scale_power:
            raise ValueError("min_loss_scale is above 2 to the power of initial_scale_power: lower it")
        return self


class DataTypes(Block):
    """Gradients are always accumulated in fp32."""

    grad_accum_dtype: Literal["fp32", "auto"] = "fp32"
