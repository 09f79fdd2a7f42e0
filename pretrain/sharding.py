"""Where the pieces of every parameter lie: `ShardLayout`.

A backend keeps master weights in local tensors: a whole parameter, some rows of one, or a flat run of many.
For each local tensor the layout says which elements of which parameter it holds, and over which ranks the
rest lies. Norms, the optimizer step, the checkpoint and the memory accounting are written once on top of it
and never know the backend.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.distributed as dist

from pretrain.kernels import blocks
from pretrain.kernels.device_table import DeviceTable
from pretrain.kernels.kind import kernel_kind

_NORM_RUN = 1024


@dataclass(frozen=True)
class ParameterInfo:
    """A parameter as the model names it, whole."""

    name: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True)
class Slice:
    """`numel` elements of one parameter, counted in its flattened form, inside one local tensor."""

    parameter: int  # index into ShardLayout.parameters
    start: int  # first element within the flattened parameter
    offset: int  # first element within the flattened local tensor
    numel: int

    @property
    def end(self) -> int:
        return self.start + self.numel


@dataclass(frozen=True)
class Shard:
    """A local tensor of fp32 master weights and the slices in it; what no slice names is padding."""

    tensor: torch.Tensor
    slices: tuple[Slice, ...]

    def views(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """1-D views of `tensor`, which has this shard's shape, one for each slice."""
        flat = tensor.view(-1)
        return [flat.narrow(0, piece.offset, piece.numel) for piece in self.slices]


@dataclass(frozen=True, eq=False)
class SliceTable:
    """The slices of some shards, in order, and what follows from them alone: the same in every step."""

    shards: tuple[Shard, ...]

    @cached_property
    def slices(self) -> tuple[Slice, ...]:
        return tuple(piece for shard in self.shards for piece in shard.slices)

    @cached_property
    def owners(self) -> np.ndarray:
        """int64 [slices]: each one's parameter."""
        return np.array([piece.parameter for piece in self.slices], dtype=np.int64)

    @cached_property
    def blocks(self) -> blocks.Blocks:
        """Each slice is an array."""
        return blocks.cut([piece.numel for piece in self.slices])

    @cached_property
    def reaches(self) -> list[int]:
        """Of each shard, how many elements from its first one hold all its slices."""
        return [
            max((piece.offset + piece.numel for piece in shard.slices), default=0) for shard in self.shards
        ]

    @cached_property
    def shard_of_slice(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.shards)), [len(shard.slices) for shard in self.shards])

    @cached_property
    def offsets(self) -> np.ndarray:
        """int64 [slices], within the shard of each."""
        return np.array([piece.offset for piece in self.slices], dtype=np.int64)

    def on(self, device: torch.device) -> DeviceTable:
        """What kernels on that device read of the slices; made at the first call for it."""
        if device not in self._by_device:
            numels = np.array([piece.numel for piece in self.slices], dtype=np.int64)
            self._by_device[device] = DeviceTable(numels, self.offsets, self.owners, device)
        return self._by_device[device]

    def by_parameter(self, per_slice: torch.Tensor, num_parameters: int) -> torch.Tensor:
        """Adds float64 [..., slices] into [..., num_parameters]."""
        sums = per_slice.new_zeros((*per_slice.shape[:-1], num_parameters))
        return sums.index_add_(-1, self.on(per_slice.device).owners, per_slice)

    @cached_property
    def _by_device(self) -> dict[torch.device, DeviceTable]:
        return {}


@dataclass(frozen=True, eq=False)
class Sliced:
    """Tensors of one kind (weights, gradients, a moment), one for each shard of a table and of its shape."""

    table: SliceTable
    tensors: Sequence[torch.Tensor]

    @cached_property
    def views(self) -> list[torch.Tensor]:
        """A 1-D view for each slice."""
        pairs = zip(self.table.shards, self.tensors, strict=True)
        return [view for shard, tensor in pairs for view in shard.views(tensor)]

    def addresses(self, dtype: torch.dtype, device: torch.device) -> np.ndarray:
        """int64 [slices]: where each begins in the memory of a device. RuntimeError: no such tensors lie there."""
        of_shards = blocks.addresses(self.tensors, self.table.reaches, dtype, device)
        return of_shards[self.table.shard_of_slice] + self.table.offsets * dtype.itemsize

    def starts(self, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """The addresses on the device itself; found at the first call."""
        if (dtype, device) not in self._starts:
            addresses = self.addresses(dtype, device)
            self._starts[dtype, device] = self.table.on(device).starts(addresses)
        return self._starts[dtype, device]

    @cached_property
    def _starts(self) -> dict[tuple[torch.dtype, torch.device], torch.Tensor]:
        return {}

    def squared_norms(self, num_parameters: int) -> torch.Tensor:
        """The squared L2 norm of what is here of each parameter; float64 [num_parameters], on the tensors' device."""
        device, dtype = self.tensors[0].device, self.tensors[0].dtype
        kind = kernel_kind(device, dtype)
        if kind == "triton":
            from pretrain.kernels import triton_norms

            starts = self.starts(dtype, device)
            return triton_norms.squared_norms(self.table.on(device), starts, num_parameters)
        if kind == "numba":
            by_slice = blocks.squared_norms(self.addresses(dtype, device), self.table.blocks, dtype)
            return self.table.by_parameter(torch.from_numpy(by_slice), num_parameters)
        norms = [accurate_norm(view) for view in self.views]
        return self.table.by_parameter(torch.stack(norms).square(), num_parameters)


@dataclass(frozen=True)
class ShardLayout:
    """All shards of one rank.

    `group` spans the ranks that together hold every parameter once; None says that this rank holds them
    all. Replicas of that set are counted by `replica`: norms are never summed over replicas, and replica 0
    writes the checkpoint. `group_device` is where the group exchanges: shards may be offloaded to the CPU while
    NCCL reaches GPUs alone. None: where the shards lie. `frozen` is the layout of the parameters that are not trained,
    cut over the same group and with the same replicas; they have no part in norms and steps, only in checkpoints.
    """

    parameters: tuple[ParameterInfo, ...]
    shards: tuple[Shard, ...]
    group: dist.ProcessGroup | None = None
    replica: int = 0
    group_device: torch.device | None = None
    frozen: "ShardLayout | None" = None

    @property
    def device(self) -> torch.device:
        return self.shards[0].tensor.device

    @property
    def dtype(self) -> torch.dtype:
        return self.shards[0].tensor.dtype

    def sum_over_group(self, table: torch.Tensor) -> torch.Tensor:
        """Adds `table` over the ranks that hold the other slices, in place."""
        if self.group is not None and dist.get_world_size(self.group) > 1:
            exchanged = table.to(self.group_device or table.device)
            dist.all_reduce(exchanged, group=self.group)
            if exchanged is not table:
                table.copy_(exchanged)
        return table

    @cached_property
    def table(self) -> SliceTable:
        """Of all shards."""
        return SliceTable(self.shards)

    @cached_property
    def num_axes(self) -> torch.Tensor:
        """int64 [num_parameters]: of each, on the device of the shards."""
        return torch.tensor([len(info.shape) for info in self.parameters], device=self.device)

    def partial_squared_norms(self, values: Sliced) -> torch.Tensor:
        """float64 [num_parameters]: this rank's share of each parameter's squared L2 norm.

        Slices are added in float64, so that the cut of a parameter does not show in the sum.
        """
        if not values.table.slices:
            return torch.zeros(len(self.parameters), dtype=torch.float64, device=self.device)
        return values.squared_norms(len(self.parameters)).to(self.device)

    def global_norm(self, values: Sliced) -> torch.Tensor:
        """The L2 norm over all parameters (0-d float64), equal on every rank of the group."""
        return self.sum_over_group(self.partial_squared_norms(values).sum()).sqrt()

    def with_frozen(self) -> "Iterator[ShardLayout]":
        """This layout, and that of what is not trained, if there is any: together all master weights."""
        yield self
        if self.frozen is not None:
            yield self.frozen

    def all_slices(self) -> Iterator[tuple[int, Slice]]:
        """(index of the shard, slice) for every slice this rank holds."""
        for index, shard in enumerate(self.shards):
            for piece in shard.slices:
                yield index, piece


def accurate_norm(piece: torch.Tensor) -> torch.Tensor:
    """The L2 norm of a 1-D float32 tensor on any device (0-d float64).

    One float32 sum over millions of squares loses digits, and differently for each cut; sums over short runs, added
    in float64, keep seven at the same speed.
    """
    whole = piece.numel() // _NORM_RUN * _NORM_RUN
    runs = torch.linalg.vector_norm(piece[:whole].view(-1, _NORM_RUN), dim=1)
    tail = torch.linalg.vector_norm(piece[whole:], dtype=torch.float64)
    return torch.linalg.vector_norm(torch.cat([runs.double(), tail[None]]))
