"""FSDP2 (`fully_shard`), with the four meanings of a ZeRO stage.

- 0: replicated; a (world, 1) mesh whose only work is the all-reduce.
- 1: sharded optimizer state; gradients stay whole until the last micro-batch.
- 2: gradients are reduce-scattered after every micro-batch; parameters stay gathered between the passes.
- 3: parameters are released after the forward pass too.
"""

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from pretrain.backends.base import EngineOptions, LossWeights, StepResult, finished_step, make_loss_scaler
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
        for module in (*model.blocks(), model):
            sharded = fully_shard(
                module, mesh=self._mesh, reshard_after_forward=self._stage == 3, mp_policy=policy
            )
            sharded.set_gradient_divide_factor(1.0)
            # gloo has no pre-multiplied sum.
            sharded.set_force_sum_reduction_for_comms(options.device.type == "cpu")
        self._root: FSDPModule = sharded
        if options.compile:
            model.compile_blocks()
        self._named = list(model.encoder.named_parameters())
        self._layout = _layout(self._named, self._mesh)
        optimizer.bind(self._layout)

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
        self._root.set_is_last_backward(last)
        self._root.set_reshard_after_backward(last or self._stage == 3)
        mlm_sum, nsp_sum = self._model(batch)
        ((mlm_sum * weights.mlm + nsp_sum * weights.nsp) * self._loss_scaler.scale).backward()
        return torch.stack([mlm_sum.detach().float(), nsp_sum.detach().float()])

    def step(self, lr: float) -> StepResult:
        for shard, (_, parameter) in zip(self._layout.shards, self._named, strict=True):
            shard.tensor.grad = _local(parameter.grad)
        self._optimizer.begin(lr, grad_scale=self._loss_scaler.scale)
        self._optimizer.step()
        for shard, (_, parameter) in zip(self._layout.shards, self._named, strict=True):
            shard.tensor.grad = parameter.grad = None
        return finished_step(self._loss_scaler, *self._optimizer.finish())

    def score(self, batch: ModelInput) -> tuple[torch.Tensor, ...]:
        self._model.eval()
        with torch.no_grad():
            return self._model(batch, detail=True)

    def refresh_weights(self) -> None:
        """The master weights are what is gathered; a gathered copy that is still around goes."""
        for module in self._model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def _mesh(options: EngineOptions) -> DeviceMesh:
    """All ranks shard, or, for stage 0, all replicate."""
    kind = options.device.type
    if options.config.stage == 0:
        return init_device_mesh(kind, (options.world_size, 1), mesh_dim_names=("replicate", "shard"))
    return init_device_mesh(kind, (options.world_size,), mesh_dim_names=("shard",))


def _layout(named: list[tuple[str, nn.Parameter]], mesh: DeviceMesh) -> ShardLayout:
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
    return ShardLayout(infos, tuple(shards), group=shard_mesh.get_group(), replica=replica)


def _local(tensor: torch.Tensor | None) -> torch.Tensor:
    if not isinstance(tensor, DTensor):
        raise RuntimeError(
            "FSDP left a parameter or gradient unsharded; its version may lay weights out otherwise."
        )
    return tensor.to_local()
