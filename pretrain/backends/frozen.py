"""Parameters that are not trained.

FSDP shards them like the others, and DeepSpeed's stage 0 leaves them whole: what computes is what is saved there. Under
its other stages what computes may have half precision, and our optimizer's master weights are those of trained
parameters alone. So each rank keeps its part of the others, in fp32 and in host memory, for checkpoints and for what
comes from one: 4 bytes a frozen parameter over all ranks together.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pretrain.model.encoder import PretrainingModel
from pretrain.sharding import ParameterInfo, Shard, ShardLayout, Slice

Named = list[tuple[str, nn.Parameter]]


def split_frozen(model: PretrainingModel) -> tuple[Named, Named]:
    """The model's parameters by name: those that are trained, and those that are not."""
    named = list(model.encoder.named_parameters())
    return (
        [(name, parameter) for name, parameter in named if parameter.requires_grad],
        [(name, parameter) for name, parameter in named if not parameter.requires_grad],
    )


class FrozenParameters:
    """Of an initialised DeepSpeed engine: where their fp32 values lie, and how these get to where they compute."""

    def __init__(
        self, named: list[tuple[str, Any]], weights: list[Tensor], stage: int, device: torch.device
    ) -> None:
        """`weights`: their values before the engine rounded and cut them, whole."""
        self._parameters = [parameter for _, parameter in named]
        self._device = device
        infos = tuple(
            ParameterInfo(name, tuple(weight.shape)) for (name, _), weight in zip(named, weights, strict=True)
        )
        if stage == 0:
            shards = tuple(
                Shard(parameter, (Slice(index, 0, 0, parameter.numel()),))
                for index, parameter in enumerate(self._parameters)
            )
            self.layout = ShardLayout(infos, shards, group=None, replica=dist.get_rank())
            return
        rank, ranks = dist.get_rank(), dist.get_world_size()
        # Stage 3 says itself how it cuts, padding included.
        self._held = [
            parameter.ds_tensor.ds_numel if stage == 3 else -(-info.numel // ranks)
            for parameter, info in zip(self._parameters, infos, strict=True)
        ]
        slices, offset = [], 0
        for index, (info, held) in enumerate(zip(infos, self._held, strict=True)):
            numel = max(0, min(held, info.numel - rank * held))
            if numel:
                slices.append(Slice(index, rank * held, offset, numel))
            offset += numel
        shard = Shard(torch.empty(offset), tuple(slices))
        for piece, view in zip(slices, shard.views(shard.tensor), strict=True):
            view.copy_(weights[piece.parameter].flatten()[piece.start : piece.end])
        self.layout = ShardLayout(infos, (shard,), group=dist.group.WORLD, group_device=device)

    def gather(self) -> None:
        """Stages 1 and 2, whose ranks compute with whole parameters: each sends its part; collective."""
        pieces = self._pieces()
        for index, (parameter, held) in enumerate(zip(self._parameters, self._held, strict=True)):
            part = torch.zeros(held, device=self._device)
            if index in pieces:
                part[: len(pieces[index])].copy_(pieces[index])
            whole = torch.empty(held * dist.get_world_size(), device=self._device)
            dist.all_gather_into_tensor(whole, part)
            parameter.data.copy_(whole[: parameter.numel()].view_as(parameter))

    def fill_partitions(self) -> None:
        """Stage 3, while all parameters are partitioned."""
        pieces = self._pieces()
        for index, parameter in enumerate(self._parameters):
            if index in pieces:
                parameter.ds_tensor.data[: len(pieces[index])].copy_(pieces[index])
            # Of a secondary partition: what was gathered before is no longer so.
            parameter.ds_secondary_tensor = None

    def _pieces(self) -> dict[int, Tensor]:
        (shard,) = self.layout.shards
        views = shard.views(shard.tensor)
        return {piece.parameter: view for piece, view in zip(shard.slices, views, strict=True)}
