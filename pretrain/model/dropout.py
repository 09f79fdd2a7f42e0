"""Dropout (Srivastava et al. 2014) on the CPU, where torch's draws one number for each element, one after another.

A 64-bit number of torch's generator serves four elements: each is dropped where its 16 bits lie below `p`, rounded to a
65,536th. What is kept is scaled by the share that is really kept, so that the expectation is exact. Of the mask a byte
for each element stays for the backward pass. On a GPU, and in compiled layers, torch's own is used: both draw in
parallel.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as torch_dropout

_VALUES, _LOWEST = 1 << 16, -(1 << 15)  # of an int16
_PER_DRAW = 4


class Dropout(nn.Dropout):
    """In place of torch's, with the same `p`."""

    def forward(self, input: Tensor) -> Tensor:
        """Of any shape; the same tensor outside training."""
        return dropped(input, self.p) if self.training else input


def use_dropout(module: nn.Module) -> None:
    """Every dropout of torch inside a module becomes one of ours."""
    for parent in module.modules():
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, Dropout(child.p))


def dropped(tensor: Tensor, p: float) -> Tensor:
    """The tensor with elements set to zero with probability `p`, 0 to below 1, and the others scaled."""
    if p == 0.0:
        return tensor
    if tensor.device.type != "cpu" or torch.compiler.is_compiling():
        return torch_dropout(tensor, p)
    output: Tensor = _Dropped.apply(tensor, p)
    return output


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, p: float) -> Tensor:
        kept, scale = _drawn(tensor, p)
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return (tensor * kept).mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return (gradient * kept).mul_(ctx.scale), None


def _drawn(tensor: Tensor, p: float) -> tuple[Tensor, float]:
    """Which elements are kept, and the factor that makes up for the others."""
    count = tensor.numel()
    below = min(_VALUES - 1, round(p * _VALUES))
    draws = torch.empty(-(-count // _PER_DRAW), dtype=torch.int64).random_(-(1 << 63), None)
    kept = draws.view(torch.int16)[:count].view(tensor.shape) >= _LOWEST + below
    return kept, _VALUES / (_VALUES - below)
