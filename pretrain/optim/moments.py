"""What a rule is given in one step, and Adam's part of it: the moments and the direction they give."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import sqrt

import torch

from pretrain.sharding import ShardLayout, Slice

# By kind, float64 [num_parameters]; NaN: not known.
ParameterFigures = dict[str, torch.Tensor]


@dataclass(frozen=True)
class AdamOptions:
    """Hyper-parameters of the moments (Kingma and Ba 2015)."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-6
    bias_correction: bool = True

    @property
    def moment_kinds(self) -> tuple[str, ...]:
        """The tensors kept for each shard: what a checkpoint holds besides the master weights."""
        return ("exp_avg", "exp_avg_sq")

    def corrections(self, step: int) -> tuple[float, float]:
        """What m and sqrt(v) are divided by: 1 - beta1^step and sqrt(1 - beta2^step), or 1."""
        if not self.bias_correction:
            return 1.0, 1.0
        return 1 - self.beta1**step, sqrt(1 - self.beta2**step)


@dataclass(frozen=True)
class LocalSlices:
    """What one step updates on this rank: for each slice a 1-D float32 view of each kind, and its decay.

    `raw_gradients` times `gradient_factor` are the gradients without their loss scale, and clipped; who takes them
    raw must apply it. `moments`: the views by the kinds that the rule keeps. `parameter_decays` are those of all
    parameters of the layout, held here or not.
    """

    layout: ShardLayout
    slices: list[Slice]
    weights: list[torch.Tensor]
    raw_gradients: list[torch.Tensor]
    moments: Mapping[str, list[torch.Tensor]]
    parameter_decays: list[float]
    gradient_factor: float = 1.0
    vectors: Mapping[str, torch.Tensor] = field(default_factory=dict)  # what every rank holds whole, by kind

    @property
    def decays(self) -> list[float]:
        """Of each slice."""
        return [self.parameter_decays[piece.parameter] for piece in self.slices]

    @cached_property
    def gradients(self) -> list[torch.Tensor]:
        """The raw gradients, multiplied in place by their factor at the first call."""
        if self.gradient_factor != 1.0 and self.raw_gradients:
            torch._foreach_mul_(self.raw_gradients, self.gradient_factor)
        return self.raw_gradients

    @property
    def exp_avg(self) -> list[torch.Tensor]:
        return self.moments["exp_avg"]

    @property
    def exp_avg_sq(self) -> list[torch.Tensor]:
        return self.moments["exp_avg_sq"]

    @property
    def on_cpu(self) -> bool:
        return self.layout.device.type == "cpu"


def adam_directions(local: LocalSlices, options: AdamOptions, step: int) -> list[torch.Tensor]:
    """Updates the moments in place and returns m_hat / (sqrt(v_hat) + eps), written over the gradients.

    m <- beta1 m + (1 - beta1) g; v <- beta2 v + (1 - beta2) g^2; m_hat and v_hat are divided by 1 - beta^step
    where bias correction is on (Kingma and Ba 2015, Algorithm 1). `step` counts from 1.
    """
    if not local.slices:  # a rank that holds nothing but padding
        return []
    torch._foreach_lerp_(local.exp_avg, local.gradients, 1 - options.beta1)
    torch._foreach_mul_(local.exp_avg_sq, options.beta2)
    torch._foreach_addcmul_(local.exp_avg_sq, local.gradients, local.gradients, 1 - options.beta2)
    correction1, correction2 = options.corrections(step)
    for direction, exp_avg, exp_avg_sq in zip(local.gradients, local.exp_avg, local.exp_avg_sq, strict=True):
        torch.sqrt(exp_avg_sq, out=direction)
        direction.div_(correction2).add_(options.eps)
        torch.div(exp_avg, direction, out=direction)
        direction.div_(correction1)
    return local.gradients
