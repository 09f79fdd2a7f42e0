"""What a rule is given in one step, and Adam's part of it: the moments and the direction they give."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import sqrt

import numpy as np
import torch

from pretrain.sharding import ShardLayout, Slice, Sliced, SliceTable

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
    """What one step updates on this rank: float32 values of each kind, by the slices of some shards.

    `raw_gradients` times `gradient_factor` are the gradients without their loss scale, and clipped; who takes them
    raw must apply it. `moments`: by the kinds that the rule keeps. `parameter_decays` are those of all parameters of
    the layout, held here or not.
    """

    layout: ShardLayout
    table: SliceTable
    weights: Sliced
    raw_gradients: Sliced
    moments: Mapping[str, Sliced]
    parameter_decays: list[float]
    gradient_factor: float = 1.0
    vectors: Mapping[str, torch.Tensor] = field(default_factory=dict)  # what every rank holds whole, by kind

    @property
    def slices(self) -> tuple[Slice, ...]:
        return self.table.slices

    @property
    def decays(self) -> list[float]:
        """Of each slice."""
        return [self.parameter_decays[piece.parameter] for piece in self.slices]

    @cached_property
    def gradients(self) -> list[torch.Tensor]:
        """Views of the raw gradients, multiplied in place by their factor at the first call."""
        views = self.raw_gradients.views
        if self.gradient_factor != 1.0 and views:
            torch._foreach_mul_(views, self.gradient_factor)
        return views

    @cached_property
    def addresses(self) -> np.ndarray:
        """int64 [4, slices]: of gradients, weights, exp_avg and exp_avg_sq in the main memory."""
        kinds = (self.raw_gradients, self.weights, self.exp_avg, self.exp_avg_sq)
        return np.stack([kind.addresses(self.layout.dtype) for kind in kinds])

    @property
    def exp_avg(self) -> Sliced:
        return self.moments["exp_avg"]

    @property
    def exp_avg_sq(self) -> Sliced:
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
    gradients, first, second = local.gradients, local.exp_avg.views, local.exp_avg_sq.views
    torch._foreach_lerp_(first, gradients, 1 - options.beta1)
    torch._foreach_mul_(second, options.beta2)
    torch._foreach_addcmul_(second, gradients, gradients, 1 - options.beta2)
    correction1, correction2 = options.corrections(step)
    for direction, exp_avg, exp_avg_sq in zip(gradients, first, second, strict=True):
        torch.sqrt(exp_avg_sq, out=direction)
        direction.div_(correction2).add_(options.eps)
        torch.div(exp_avg, direction, out=direction)
        direction.div_(correction1)
    return gradients
