"""What a rule is given in one step, and the hyper-parameters of Adam's moments."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import sqrt

import numpy as np
import torch

from pretrain.kernels.blocks import CPU
from pretrain.kernels.kind import kernel_kind
from pretrain.optim.decay import Decays
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

    def coefficients(self, gradient_factor: float, step: int) -> tuple[float, ...]:
        """What a kernel takes of a step: see `pretrain.optim.kernels.Coefficients`."""
        correction1, correction2 = self.corrections(step)
        rates = (1 - self.beta1, self.beta2, 1 - self.beta2)
        return gradient_factor, *rates, 1 / correction1, 1 / correction2, self.eps


@dataclass(frozen=True)
class LocalSlices:
    """What one step updates on this rank: float32 values of each kind, by the slices of some shards.

    `raw_gradients` times `gradient_factor` are the gradients without their loss scale, and clipped; who takes them
    raw must apply it. `moments`: by the kinds that the rule keeps.
    """

    layout: ShardLayout
    table: SliceTable
    weights: Sliced
    raw_gradients: Sliced
    moments: Mapping[str, Sliced]
    parameter_decays: Decays
    gradient_factor: float = 1.0
    vectors: Mapping[str, torch.Tensor] = field(default_factory=dict)  # what every rank holds whole, by kind

    @property
    def slices(self) -> tuple[Slice, ...]:
        return self.table.slices

    @property
    def decays(self) -> list[float]:
        """Of each slice."""
        return [self.parameter_decays.by_parameter[piece.parameter] for piece in self.slices]

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
        return np.stack([kind.addresses(self.layout.dtype, CPU) for kind in self._of_adam])

    @cached_property
    def starts(self) -> tuple[torch.Tensor, ...]:
        """The same in a GPU's memory, and there; int64 [slices] each."""
        return tuple(kind.starts(self.layout.dtype, self.layout.device) for kind in self._of_adam)

    def find(self) -> None:
        """Finds where kernels on a GPU find all this: what the host can do while the gradient norm is computed."""
        dtype, device = self.layout.dtype, self.layout.device
        if kernel_kind(device, dtype) == "triton":
            for kind in (self.weights, *self.moments.values()):
                kind.starts(dtype, device)

    @property
    def _of_adam(self) -> tuple[Sliced, ...]:
        return self.raw_gradients, self.weights, self.exp_avg, self.exp_avg_sq

    @property
    def exp_avg(self) -> Sliced:
        return self.moments["exp_avg"]

    @property
    def exp_avg_sq(self) -> Sliced:
        return self.moments["exp_avg_sq"]
