"""Adam's moments, shared by LAMB and AdamW.

All functions work in place on lists of 1-D float32 slices of equal lengths.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Moments:
    """First and second moment of each slice."""

    exp_avg: list[torch.Tensor]
    exp_avg_sq: list[torch.Tensor]


def update_moments(moments: Moments, gradients: list[torch.Tensor], beta1: float, beta2: float) -> None:
    """m <- beta1 m + (1 - beta1) g and v <- beta2 v + (1 - beta2) g^2 (Kingma and Ba 2015, Algorithm 1)."""
    if not gradients:  # a rank that holds nothing but padding
        return
    torch._foreach_lerp_(moments.exp_avg, gradients, 1 - beta1)
    torch._foreach_mul_(moments.exp_avg_sq, beta2)
    torch._foreach_addcmul_(moments.exp_avg_sq, gradients, gradients, 1 - beta2)


def adam_direction(
    moments: Moments, scratch: list[torch.Tensor], correction1: float, correction2: float, eps: float
) -> list[torch.Tensor]:
    """m_hat / (sqrt(v_hat) + eps), written over `scratch`.

    `correction1` is 1 - beta1^t; `correction2` is sqrt(1 - beta2^t); both are 1 without bias correction.
    """
    for direction, exp_avg, exp_avg_sq in zip(scratch, moments.exp_avg, moments.exp_avg_sq, strict=True):
        torch.sqrt(exp_avg_sq, out=direction)
        direction.div_(correction2).add_(eps)
        torch.div(exp_avg, direction, out=direction)
        direction.div_(correction1)
    return scratch
