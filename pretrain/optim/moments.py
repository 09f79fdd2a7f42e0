"""Adam's part of a step, shared by LAMB and AdamW: the moments and the direction they give."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

import torch

from pretrain.sharding import ShardLayout, Slice


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


@dataclass(frozen=True)
class LocalSlices:
    """What one step updates on this rank: for each slice a 1-D float32 view of each kind, and its decay.

    `moments`: the views by the kinds that the rule keeps.
    """

    layout: ShardLayout
    slices: list[Slice]
    weights: list[torch.Tensor]
    gradients: list[torch.Tensor]
    moments: Mapping[str, list[torch.Tensor]]
    decays: list[float]

    @property
    def exp_avg(self) -> list[torch.Tensor]:
        return self.moments["exp_avg"]

    @property
    def exp_avg_sq(self) -> list[torch.Tensor]:
        return self.moments["exp_avg_sq"]


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
    correction1 = 1 - options.beta1**step if options.bias_correction else 1.0
    correction2 = sqrt(1 - options.beta2**step) if options.bias_correction else 1.0
    for direction, exp_avg, exp_avg_sq in zip(local.gradients, local.exp_avg, local.exp_avg_sq, strict=True):
        torch.sqrt(exp_avg_sq, out=direction)
        direction.div_(correction2).add_(options.eps)
        torch.div(exp_avg, direction, out=direction)
        direction.div_(correction1)
    return local.gradients
