"""A step's passes over memory, one module for each kind of kernels, and the choice among them.

LAMB needs two, with a sum over all ranks between them: `write_updates` and `subtract_updates`. AdamW needs one. Where
memory sets the pace, the count of walks is the time: LAMB moves 40 bytes for each weight and AdamW 28, by numba's loops
on the CPU and by Triton's kernels on a GPU alike. torch's operations walk it eight times and more.
"""

from typing import Protocol

import torch

from pretrain.kernels.kind import kernel_kind
from pretrain.optim import cpu_passes, torch_passes
from pretrain.optim.moments import AdamOptions, LocalSlices


class Passes(Protocol):
    def write_updates(self, local: LocalSlices, options: AdamOptions, step: int) -> torch.Tensor:
        """Updates the moments and writes u = direction + decay * w over the gradients.

        m <- beta1 m + (1 - beta1) g; v <- beta2 v + (1 - beta2) g^2; the direction is m_hat / (sqrt(v_hat) + eps),
        where m_hat and v_hat are divided by 1 - beta^step if bias is corrected (Kingma and Ba 2015, Algorithm 1).
        `step` counts from 1. Returns float64 [2, num_parameters]: this rank's shares of every parameter's |w|^2 and
        |u|^2.
        """

    def subtract_updates(self, local: LocalSlices, rates: torch.Tensor) -> None:
        """w <- w - rate * u, by each parameter's rate; `rates`: float64 [num_parameters], u lies over the gradients."""

    def step_by_directions(self, local: LocalSlices, options: AdamOptions, lr: float, step: int) -> None:
        """Updates the moments, and w <- (1 - lr * decay) * w - lr * direction."""


def passes_for(local: LocalSlices) -> Passes:
    """What suits the device and the dtype of the shards."""
    kind = kernel_kind(local.layout.device, local.layout.dtype)
    if kind == "triton":
        from pretrain.optim import triton_passes

        return triton_passes
    return cpu_passes if kind == "numba" else torch_passes
