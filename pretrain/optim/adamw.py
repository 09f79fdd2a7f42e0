"""AdamW (Loshchilov and Hutter 2019, Algorithm 2) over slices."""

from dataclasses import dataclass
from math import sqrt

import torch

from pretrain.optim.moments import Moments, adam_direction, update_moments
from pretrain.sharding import ShardLayout, Slice


@dataclass(frozen=True)
class AdamWOptions:
    """Hyper-parameters of AdamW."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-6
    bias_correction: bool = True

    def apply(
        self,
        layout: ShardLayout,
        slices: list[Slice],
        weights: list[torch.Tensor],
        gradients: list[torch.Tensor],
        moments: Moments,
        decays: list[float],
        lr: float,
        step: int,
    ) -> None:
        """w <- w - lr * (m_hat / (sqrt(v_hat) + eps) + decay * w); `gradients` serve as scratch space."""
        correction1 = 1 - self.beta1**step if self.bias_correction else 1.0
        correction2 = sqrt(1 - self.beta2**step) if self.bias_correction else 1.0
        update_moments(moments, gradients, self.beta1, self.beta2)
        directions = adam_direction(moments, gradients, correction1, correction2, self.eps)
        for weight, direction, decay in zip(weights, directions, decays, strict=True):
            if decay:
                weight.mul_(1 - lr * decay)
            weight.add_(direction, alpha=-lr)
