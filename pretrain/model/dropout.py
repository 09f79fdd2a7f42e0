"""Dropout (Srivastava et al. 2014) on the CPU, where torch draws a number for each element, one after another (on some
processors in parallel).

Here SplitMix64 (Steele, Lea and Flood 2014), which the compiler makes wide, draws 64 bits for four elements, from a
seed of torch's generator: each is dropped where its 16 bits lie below `p`, rounded to a 65,536th. What is kept is
scaled by the share that is really kept, so that the expectation is exact. Of the mask a byte for each element stays for
the backward pass. On a GPU, and in compiled layers, torch's own is used, which is fast there.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import is_fake
from torch.nn.functional import dropout as torch_dropout

from pretrain.compiled import compiled

_VALUES, _PER_DRAW = 1 << 16, 4
_STEP = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31)


class Dropout(nn.Dropout):
    """In place of torch's, with the same `p`."""

    def forward(self, input: Tensor) -> Tensor:
        """Of any shape; the same tensor outside training."""
        return dropped(input, self.p) if self.training else input


def use_dropout(module: nn.Module) -> None:
    """Every dropout of torch inside a module becomes one of ours."""
    for parent in list(module.modules()):
        for name, child in parent._modules.items():
            if type(child) is nn.Dropout:
                parent._modules[name] = Dropout(child.p).train(child.training)


def dropped(tensor: Tensor, p: float) -> Tensor:
    """The tensor with elements set to zero with probability `p`, 0 to 1, and the others scaled."""
    if p == 0.0:
        return tensor
    if p == 1.0 or tensor.device.type != "cpu" or torch.compiler.is_compiling():
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
    below = min(_VALUES - 1, round(p * _VALUES))
    kept = torch.empty(tensor.shape, dtype=torch.bool)
    if not is_fake(kept):  # as in a trace, which looks at shapes alone
        seed = torch.empty((), dtype=torch.int64).random_(-(1 << 63), None)
        draws = np.empty(-(-kept.numel() // _PER_DRAW), np.uint64)
        draw(draws, seed.numpy().view(np.uint64)[()])
        _keep(kept.view(-1).numpy(), draws.view(np.uint16), below)
    return kept, _VALUES / (_VALUES - below)


@compiled
def draw(draws: np.ndarray, seed: np.uint64) -> None:
    """All of `draws` [n] uint64: the first numbers of SplitMix64 from a seed."""
    state = seed
    for index in range(len(draws)):
        state += _STEP
        mixed = (state ^ (state >> _SHIFTS[0])) * _FACTORS[0]
        mixed = (mixed ^ (mixed >> _SHIFTS[1])) * _FACTORS[1]
        draws[index] = mixed ^ (mixed >> _SHIFTS[2])


@compiled
def _keep(kept: np.ndarray, draws: np.ndarray, below: int) -> None:
    """True in `kept` [n] where `draws` [n or more] uint16 are `below` or more."""
    for index in range(len(kept)):
        kept[index] = draws[index] >= below
