"""The same parameters, whole and cut at awkward places, with the optimizer bound to either."""

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from pretrain import sharding
from pretrain.kernels.kind import KernelKind
from pretrain.optim import Rule, ShardedOptimizer, Skip, moments, passes
from pretrain.sharding import ParameterInfo, Shard, ShardLayout, Slice

# A matrix larger than one run of the norm's sum, a vector, a matrix, a single number.
PARAMETERS = (
    ParameterInfo("large", (33, 41)),
    ParameterInfo("bias", (41,)),
    ParameterInfo("small", (3, 5)),
    ParameterInfo("one", (1,)),
)
TOTAL = sum(info.numel for info in PARAMETERS)


def draw(seed: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """One random tensor for each parameter, drawn in float32 whatever the dtype."""
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(info.shape, generator=generator) * scale).to(dtype) for info in PARAMETERS]


@dataclass
class Bound:
    """An optimizer bound to a layout, and a way in and out by whole parameters."""

    optimizer: ShardedOptimizer
    layout: ShardLayout

    def scatter(self, whole: list[Tensor], target: str) -> None:
        """Writes whole tensors into the local weights (`weight`) or gradients (`grad`)."""
        for shard in self.layout.shards:
            if target == "grad" and shard.tensor.grad is None:
                shard.tensor.grad = torch.full_like(shard.tensor, torch.nan)  # what no slice names stays so
            tensor = shard.tensor.grad if target == "grad" else shard.tensor.detach()
            assert tensor is not None
            for piece, view in zip(shard.slices, shard.views(tensor), strict=True):
                view.copy_(whole[piece.parameter].flatten()[piece.start : piece.end])

    def gather(self, tensors: list[Tensor] | None = None) -> list[Tensor]:
        """Whole parameters, or whole tensors of one kind of moments."""
        tensors = [shard.tensor.detach() for shard in self.layout.shards] if tensors is None else tensors
        whole = [torch.full((info.numel,), torch.nan, dtype=tensors[0].dtype) for info in PARAMETERS]
        for shard, tensor in zip(self.layout.shards, tensors, strict=True):
            for piece, view in zip(shard.slices, shard.views(tensor), strict=True):
                whole[piece.parameter][piece.start : piece.end] = view
        return [values.view(info.shape) for values, info in zip(whole, PARAMETERS, strict=True)]

    def step(self, gradients: list[Tensor], lr: float) -> tuple[float, Skip | None]:
        self.scatter(gradients, "grad")
        self.optimizer.begin(lr)
        self.optimizer.step()
        return self.optimizer.finish()


def bind(
    layout: ShardLayout,
    rule: Rule,
    *,
    weight_decay: float = 0.01,
    max_grad_norm: float = 0.0,
    decay_1d: bool = False,
) -> Bound:
    optimizer = ShardedOptimizer(
        [torch.nn.Parameter(torch.zeros(1))],
        rule,
        weight_decay=weight_decay,
        max_grad_norm=max_grad_norm,
        decay_1d=decay_1d,
    )
    optimizer.bind(layout)
    return Bound(optimizer, layout)


def whole_layout(dtype: torch.dtype = torch.float32) -> ShardLayout:
    """A shard for each parameter, in its shape."""
    return ShardLayout(
        PARAMETERS,
        tuple(
            Shard(torch.nn.Parameter(torch.zeros(info.shape, dtype=dtype)), (Slice(i, 0, 0, info.numel),))
            for i, info in enumerate(PARAMETERS)
        ),
    )


def flat_shard(first: int, last: int, padding: int) -> Shard:
    """Elements first .. last of all parameters laid end to end, `padding` NaNs behind each slice."""
    slices, begin, offset = [], 0, 0
    for index, info in enumerate(PARAMETERS):
        low, high = max(first, begin), min(last, begin + info.numel)
        if low < high:
            slices.append(Slice(index, low - begin, offset, high - low))
            offset += high - low + padding
        begin += info.numel
    return Shard(torch.nn.Parameter(torch.full((offset,), torch.nan)), tuple(slices))


def cut_layout(cuts: tuple[int, ...], padding: int = 0) -> ShardLayout:
    """One rank that holds everything, in flat shards that end at `cuts`."""
    ends = (0, *cuts, TOTAL)
    return ShardLayout(
        PARAMETERS,
        tuple(flat_shard(first, last, padding) for first, last in pairwise(ends)),
    )


def force_kernels(monkeypatch: pytest.MonkeyPatch, kind: KernelKind) -> None:
    """Norms and passes by these, whatever the device."""
    for module in (sharding, moments, passes):
        monkeypatch.setattr(module, "kernel_kind", lambda device, dtype: kind)
