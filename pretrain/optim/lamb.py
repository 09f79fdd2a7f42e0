"""LAMB (You et al. 2020, arXiv 1904.00962, Algorithm 2), exact under any sharding.

Of each local slice: Adam's direction plus decay gives the update u; the partial sums of w*w and u*u go into
one [2, num_parameters] table; one all-reduce completes it; each parameter's trust ratio follows, and is the
same on every rank that holds a piece. A rank that holds nothing of a parameter adds zero.
"""

from dataclasses import dataclass, replace
from math import inf, nan
from typing import Literal

import torch

from pretrain.optim.moments import AdamOptions, LocalSlices, ParameterFigures
from pretrain.optim.passes import passes_for

LambVariant = Literal["paper", "nvidia", "deepspeed"]


@dataclass(frozen=True)
class LambOptions(AdamOptions):
    """Hyper-parameters of LAMB.

    Variants that were published differ in four points, each its own field:

    - paper: bias correction; every parameter has a trust ratio; its bounds are open.
    - nvidia (NVIDIA's FusedLAMB): no trust ratio where weight decay is 0. The gradient is divided by its
      global norm first, which is what clipping at 1.0 does.
    - deepspeed (the recipe of DeepSpeed's BERT tutorial): no bias correction; trust ratio in [0.01, 0.3].
    """

    trust_without_decay: bool = True
    min_trust: float = 0.0
    max_trust: float = inf
    trust_1d: bool = True  # False: biases and normalization weights take Adam's own step

    @classmethod
    def variant(cls, name: LambVariant, *, beta1: float, beta2: float, eps: float) -> "LambOptions":
        """The options that carry a published variant's name."""
        if name == "nvidia":
            return cls(beta1, beta2, eps, trust_without_decay=False)
        if name == "deepspeed":
            return cls(beta1, beta2, eps, bias_correction=False, min_trust=0.01, max_trust=0.3)
        return cls(beta1, beta2, eps)

    def apply(self, local: LocalSlices, lr: float, step: int) -> ParameterFigures:
        """w <- w - lr * trust * (m_hat / (sqrt(v_hat) + eps) + decay * w); the gradients are overwritten.

        Returns what the step was for each parameter, equal on all ranks; `trust_clamped` is 1 where a bound
        changed the ratio. NaN: the parameter had no part in this call.
        """
        passes = passes_for(local)
        squares = local.layout.sum_over_group(passes.write_updates(local, self, step))
        weight_norm, update_norm = squares.sqrt()
        ratios = self.trust_ratios(weight_norm, update_norm)
        clamped = ratios != replace(self, min_trust=0.0, max_trust=inf).trust_ratios(weight_norm, update_norm)
        trusted = self._trusted(local)
        ratios, clamped = torch.where(trusted, ratios, torch.ones_like(ratios)), clamped & trusted
        passes.subtract_updates(local, ratios * lr)
        figures = {
            "trust_ratio": ratios,
            "weight_norm": weight_norm,
            "update_norm": update_norm,
            "trust_clamped": clamped.double(),
        }
        absent = (weight_norm == 0) & (update_norm == 0)
        return {kind: values.masked_fill(absent, nan) for kind, values in figures.items()}

    def trust_ratios(self, weight_norm: torch.Tensor, update_norm: torch.Tensor) -> torch.Tensor:
        """|w| / |u| within the bounds, and 1 where either norm is 0; float64 [num_parameters]."""
        ratios = (weight_norm / update_norm).clamp(self.min_trust, self.max_trust)
        return torch.where((weight_norm > 0) & (update_norm > 0), ratios, torch.ones_like(ratios))

    def _trusted(self, local: LocalSlices) -> torch.Tensor:
        """Which parameters have a trust ratio, bool [num_parameters]; others take a ratio of 1, whatever the bounds."""
        has_decay, num_axes = local.parameter_decays.table > 0, local.layout.num_axes
        return (has_decay | self.trust_without_decay) & ((num_axes >= 2) | self.trust_1d)
