"""FSDP2 (`fully_shard`), with the four meanings of a ZeRO stage.

- 0: replicated; a (world, 1) mesh whose only work is the all-reduce.
- 1: sharded optimizer state; gradients stay whole until the last micro-batch.
- 2: gradients are reduce-scattered after every micro-batch; parameters stay gathered between the passes.
- 3: parameters are released after the forward pass too.

Stages 1 to 3 shard over all ranks, or over groups of `mics_shard_size` that are replicas of each other: their
gradients are added, their norms are not. With `zero_hpz_partition_size` stage 3 cuts what it has gathered over that
many ranks after the forward pass, so that the backward pass gathers from near by.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor

from pretrain.backends.base import EngineOptions, LossWeights, StepResult, finished_step, make_loss_scaler
from pretrain.backends.frozen import split_frozen
from pretrain.config import EngineConfig
from pretrain.model.encoder import ModelInput, PretrainingModel
from pretrain.optim import LossScaler, ShardedOptimizer
from pretrain.sharding import ParameterInfo, Shard, ShardLayout, Slice

COMPUTE_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class FsdpBackend:
    """A `fully_shard`ed model behind the `Backend` protocol."""

    def __init__(self, model: PretrainingModel, optimizer: ShardedOptimizer, options: EngineOptions) -> None:
        self._stage = options.config.stage
        self._mesh = _mesh(options)
        self._model = model.to(options.device)
        self._optimizer = optimizer
        self._loss_scaler = make_loss_scaler(options)
        dtype = COMPUTE_DTYPES[options.precision]
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
        zero = options.config.zero_optimization
        blocks = [
            fully_shard(
                module,
                mesh=self._mesh,
                reshard_after_forward=self._stage == 3 and (zero.second_group or True),
                mp_policy=policy,
                offload_policy=_offload_policy(options),
            )
            for module in (*model.blocks(), model)
        ]
        for block in blocks:
            block.set_gradient_divide_factor(1.0)
            # Else it is a sum multiplied by 1 before, which gloo has not, and NVLink's switches do not add up.
            block.set_force_sum_reduction_for_comms(True)
        *inner, self._root = blocks
        _fetch_ahead(inner, options.config)
        if options.compile:
            model.compile_blocks()
        self._named, frozen = split_frozen(model)
        self._layout = replace(
            _layout(self._named, self._mesh, options.device),
            frozen=_layout(frozen, self._mesh, options.device) if frozen else None,
        )
        # Made from the whole parameters, which would stay as long as it refers to them.
        optimizer.param_groups[0]["params"] = [shard.tensor for shard in self._layout.shards]
        optimizer.bind(self._layout)

    @property
    def model(self) -> PretrainingModel:
        return self._model

    @property
    def layout(self) -> ShardLayout:
        return self._layout

    @property
    def optimizer(self) -> ShardedOptimizer:
        return self._optimizer

    @property
    def loss_scaler(self) -> LossScaler:
        return self._loss_scaler

    def train_micro_batch(self, batch: ModelInput, weights: LossWeights, *, last: bool) -> torch.Tensor:
        self._model.train()
        self._root.set_requires_gradient_sync(last or self._stage >= 2)
        # Replicas add their gradients once a step.
        self._root.set_requires_all_reduce(last)
        self._root.set_is_last_backward(last)
        self._root.set_reshard_after_backward(last or self._stage == 3)
        mlm_sum, nsp_sum = self._model(batch)
        ((mlm_sum * weights.mlm + nsp_sum * weights.nsp) * self._loss_scaler.scale).backward()
        return torch.stack([mlm_sum.detach().float(), nsp_sum.detach().float()])

    def step(self, lr: float) -> StepResult:
        self._step(lr)
        return finished_step(self._loss_scaler, *self._optimizer.finish())

    def measure_gradient(self) -> float:
        self._step(None)
        return self._optimizer.measured()

    def score(self, batch: ModelInput) -> tuple[torch.Tensor, ...]:
        self._model.eval()
        with torch.no_grad():
            return self._model(batch, detail=True)

    def refresh_weights(self) -> None:
        """The master weights are what is gathered; a gathered copy that is still around goes."""
        for module in self._model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def _step(self, lr: float | None) -> None:
        for shard, (_, parameter) in zip(self._layout.shards, self._named, strict=True):
            shard.tensor.grad = _local(parameter.grad)
        self._optimizer.begin(lr, grad_scale=self._loss_scaler.scale)
        self._optimizer.step()
        for shard, (_, parameter) in zip(self._layout.shards, self._named, strict=True):
            shard.tensor.grad = parameter.grad = None


def _mesh(options: EngineOptions) -> DeviceMesh:
    """All ranks shard, or those of a group; for stage 0 all replicate."""
    zero, ranks = options.config.zero_optimization, options.world_size
    group = 1 if zero.stage == 0 else zero.shard_group or ranks
    if group == ranks and zero.stage > 0:
        return init_device_mesh(options.device.type, (ranks,), mesh_dim_names=("shard",))
    # Neighbours shard: a launcher numbers the ranks of a machine one after another.
    return init_device_mesh(
        options.device.type, (ranks // group, group), mesh_dim_names=("replicate", "shard")
    )


def _offload_policy(options: EngineOptions) -> OffloadPolicy:
    """On the CPU what is not in use: master weights, moments and gradients are shaped and placed like the shards."""
    zero = options.config.zero_optimization
    if not (zero.offloads_optimizer or zero.offloads_parameters):
        return OffloadPolicy()
    # Where the device is the CPU there is nothing to copy to, and nothing to pin memory for.
    return CPUOffloadPolicy(pin_memory=zero.pins_memory and options.device.type != "cpu")


def _fetch_ahead(blocks: Sequence[FSDPModule], config: EngineConfig) -> None:
    """Gathers, besides the layer in use, the next ones of either pass that `stage3_prefetch_bucket_size` holds.

    Left out, FSDP's own way holds: the next layer in the backward pass, none in the forward pass.
    """
    elements = config.zero_optimization.given().get("stage3_prefetch_bucket_size")
    if elements is None or config.stage != 3:
        return
    sizes = [sum(parameter.numel() for parameter in _module(block).parameters()) for block in blocks]
    for order, fetch in (
        (range(len(blocks)), FSDPModule.set_modules_to_forward_prefetch),
        (range(len(blocks) - 1, -1, -1), FSDPModule.set_modules_to_backward_prefetch),
    ):
        for position, index in enumerate(order):
            ahead, left = [], elements
            for other in order[position + 1 :]:
                left -= sizes[other]
                if left < 0:
                    break
                ahead.append(blocks[other])
            # Of an empty list the backward pass makes its own way; to fetch oneself is to fetch nothing.
            fetch(blocks[index], ahead or [blocks[index]])


def _module(block: FSDPModule) -> nn.Module:
    assert isinstance(block, nn.Module)
    return block


def _layout(named: list[tuple[str, nn.Parameter]], mesh: DeviceMesh, device: torch.device) -> ShardLayout:
    """Every parameter is cut along its first axis as `torch.chunk` cuts it; a local piece is one slice."""
    shard_mesh = mesh["shard"] if mesh.ndim > 1 else mesh
    rank, ranks = shard_mesh.get_local_rank(), shard_mesh.size()
    shards = []
    for index, (_, parameter) in enumerate(named):
        local = _local(parameter.detach())
        rows_per_rank = -(-parameter.shape[0] // ranks)
        row_numel = parameter.numel() // parameter.shape[0]
        start = min(rank * rows_per_rank, parameter.shape[0]) * row_numel
        pieces = (Slice(index, start, 0, local.numel()),) if local.numel() else ()
        shards.append(Shard(local, pieces))
    infos = tuple(ParameterInfo(name, tuple(parameter.shape)) for name, parameter in named)
    replica = mesh["replicate"].get_local_rank() if mesh.ndim > 1 else 0
    return ShardLayout(
        infos, tuple(shards), group=shard_mesh.get_group(), replica=replica, group_device=device
    )


def _local(tensor: torch.Tensor | None) -> torch.Tensor:
    if not isinstance(tensor, DTensor):
        raise RuntimeError(
            "FSDP left a parameter or gradient unsharded; its version may lay weights out otherwise."
        )
    return tensor.to_local()
