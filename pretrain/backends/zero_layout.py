"""Where DeepSpeed's ZeRO keeps what: from its internal tables to a `ShardLayout`.

- stage 0: every parameter whole.
- stages 1 and 2: one flat fp32 partition per rank; `param._hp_mapping` says which run of the parameter lies
  where in it (None: nothing of it on this rank).
- stage 3: one flat fp32 tensor per sub-group, in which each parameter has `ds_tensor.ds_numel` elements; rank r
  holds elements r * ds_numel and on, and the last rank's tail is uninitialised padding, which no slice names.
"""

from typing import Any

import torch
import torch.distributed as dist

from pretrain.sharding import ParameterInfo, Shard, ShardLayout, Slice

# Parameters with what DeepSpeed attaches to them, by the model's names.
NamedParameters = list[tuple[str, Any]]


def zero_layout(engine: Any, named: NamedParameters, stage: int, device: torch.device) -> ShardLayout:
    """The layout of an initialised DeepSpeed engine on `device` whose trained parameters are `named`, in order; what
    is not trained lies elsewhere (`frozen`)."""
    if stage == 0:
        infos = tuple(ParameterInfo(name, tuple(parameter.shape)) for name, parameter in named)
        shards = tuple(
            Shard(parameter, (Slice(index, 0, 0, parameter.numel()),))
            for index, (_, parameter) in enumerate(named)
        )
        return ShardLayout(infos, shards, group=None, replica=dist.get_rank())
    if stage == 3:
        return _stage3(engine.optimizer, named, device)
    return _stages_1_and_2(engine.optimizer, named, device)


def _stages_1_and_2(optimizer: Any, named: NamedParameters, device: torch.device) -> ShardLayout:
    if hasattr(optimizer, "single_partition_of_fp32_groups"):
        (flat,) = optimizer.single_partition_of_fp32_groups
    else:  # BF16_Optimizer: stage 1 with bf16 weights and fp32 accumulation
        (flat,) = optimizer.fp32_groups_flat_partition
    slices = []
    for index, (_, parameter) in enumerate(named):
        mapping = parameter._hp_mapping
        if mapping is not None:
            inside, local = mapping.lp_fragment_address, mapping.hp_fragment_address
            slices.append(Slice(index, int(inside.start), int(local.start), int(inside.numel)))
    infos = tuple(ParameterInfo(name, tuple(parameter.shape)) for name, parameter in named)
    return ShardLayout(infos, (Shard(flat, tuple(slices)),), group=dist.group.WORLD, group_device=device)


def _stage3(optimizer: Any, named: NamedParameters, device: torch.device) -> ShardLayout:
    index_of = {id(parameter): index for index, (_, parameter) in enumerate(named)}
    rank = dist.get_rank()
    shards = []
    for sub_group, flat in zip(optimizer.fp16_groups, optimizer.fp32_partitioned_groups_flat, strict=True):
        slices, offset = [], 0
        for parameter in sub_group:
            held: int = parameter.ds_tensor.ds_numel
            start = rank * held
            numel = min(held, parameter.ds_numel - start)
            if numel > 0:
                slices.append(Slice(index_of[id(parameter)], start, offset, numel))
            offset += held
        shards.append(Shard(flat, tuple(slices)))
    infos = tuple(ParameterInfo(name, tuple(parameter.ds_shape)) for name, parameter in named)
    return ShardLayout(infos, tuple(shards), group=dist.group.WORLD, group_device=device)
