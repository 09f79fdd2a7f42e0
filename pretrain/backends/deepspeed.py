"""DeepSpeed, ZeRO stages 0 to 3, driven so that gradients are sums and our optimizer sees its shards.

Under fp16 its own loss scale stays 1: the loss is multiplied by ours and our optimizer divides the fp32 gradients,
so that scale, skipped steps and checkpoints are the same under both engines.
"""

import logging
from dataclasses import replace
from typing import Any

import deepspeed
import torch
from deepspeed import ops
from deepspeed.runtime.precision_config import DeepSpeedBF16Config
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from deepspeed.utils import logger as deepspeed_logger
from deepspeed.utils import set_z3_leaf_modules

from pretrain.backends.base import EngineOptions, LossWeights, StepResult, finished_step, make_loss_scaler
from pretrain.backends.frozen import FrozenParameters, split_frozen
from pretrain.backends.zero_layout import zero_layout
from pretrain.config.engine import NO_EFFECT
from pretrain.model.encoder import ModelInput, PretrainingModel
from pretrain.optim import LossScaler, ShardedOptimizer
from pretrain.sharding import ShardLayout, Sliced

_SHARED_MEMORY_OP = "deepspeed_shm_comm"
# What looks over all gradients, and waits for the device, to know what our optimizer finds out itself.
_CHECKS_OVERFLOW, _COMPUTES_NORM = "check_grad_overflow", "compute_grad_norm"


class DeepSpeedBackend:
    """A `DeepSpeedEngine` behind the `Backend` protocol."""

    def __init__(self, model: PretrainingModel, optimizer: ShardedOptimizer, options: EngineOptions) -> None:
        deepspeed_logger.setLevel(logging.WARNING)
        # Its CPU all-reduce compiles at start-up, leaves a stale lock when killed there and segments in
        # /dev/shm; gloo is enough.
        if options.device.type == "cpu":
            ops.__compatible_ops__[_SHARED_MEMORY_OP] = False
        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
        self._world_size = options.world_size
        self._loss_scaler = make_loss_scaler(options)
        # The engine averages over ranks: of a loss multiplied by their number the gradient is a sum. fp16 has no room
        # for that factor, so there it is our optimizer that multiplies.
        self._loss_factor = 1 if options.precision == "fp16" else options.world_size
        self._stage = options.config.stage
        self._offloads_optimizer = options.config.zero_optimization.offloads_optimizer
        self._model = model
        named, frozen = split_frozen(model)
        weights = [parameter.detach() for _, parameter in named]
        frozen_weights = [parameter.detach() for _, parameter in frozen]
        if options.compile and self._stage == 3:
            # Stage 3 gathers by hooks on every module; compiled code has room for them around a whole layer only.
            set_z3_leaf_modules(model, list({type(block) for block in model.blocks()}))
        self._engine, *_ = deepspeed.initialize(
            model=model.to(options.device), optimizer=optimizer, config=engine_json(options)
        )
        if options.compile:
            model.compile_blocks()
        # Stage 0 under fp16 autocast comes with a scaler of torch's.
        self._engine.torch_autocast_z0_gradscaler = None
        self._optimizer = optimizer
        self._frozen = (
            FrozenParameters(frozen, frozen_weights, self._stage, options.device) if frozen else None
        )
        self._layout = replace(
            zero_layout(self._engine, named, self._stage, options.device),
            frozen=None if self._frozen is None else self._frozen.layout,
        )
        optimizer.bind(self._layout)
        if options.precision != "fp32" and self._stage > 0:
            self._set_masters(weights)

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
        self._engine.train()
        self._engine.set_gradient_accumulation_boundary(last)
        mlm_sum, nsp_sum = self._engine(batch)
        factor = self._loss_scaler.scale * self._loss_factor
        loss = (mlm_sum * weights.mlm + nsp_sum * weights.nsp) * factor
        self._engine.backward(loss, scale_wrt_gas=False)
        return torch.stack([mlm_sum.detach().float(), nsp_sum.detach().float()])

    def step(self, lr: float) -> StepResult:
        reached = self._step(lr)
        closed = self._optimizer.finish() if reached else self._optimizer.abandon()
        return finished_step(self._loss_scaler, *closed)

    def measure_gradient(self) -> float:
        return self._optimizer.measured() if self._step(None) else self._optimizer.abandon()[0]

    def score(self, batch: ModelInput) -> tuple[torch.Tensor, ...]:
        self._engine.eval()
        with torch.no_grad():
            return self._engine(batch, detail=True)

    @torch.no_grad()
    def refresh_weights(self) -> None:
        if self._stage in (1, 2):
            self._engine.optimizer.update_lp_params()
            if self._frozen is not None:
                self._frozen.gather()
        elif self._stage == 3:
            zero = self._engine.optimizer
            # What is gathered already would stay as it was.
            zero._partition_all_parameters()
            for sub_group in range(len(zero.fp16_groups)):
                zero._reassign_or_swap_out_partitioned_parameters(sub_group)
            if self._frozen is not None:
                self._frozen.fill_partitions()
            if zero.persistent_parameters:
                zero.persistent_parameters[0].all_gather(zero.persistent_parameters)
            zero.invalidate_secondary_tensor()

    def _step(self, lr: float | None) -> bool:
        """Whether the engine has asked our optimizer, which it does not if it finds, by itself and on all ranks, that
        a gradient is not finite."""
        grad_scale = self._loss_scaler.scale * self._loss_factor / self._world_size
        self._optimizer.begin(lr, self._norm_before_sub_groups(), grad_scale)
        self._engine.step()
        return not getattr(self._engine.optimizer, "overflow", False)

    @torch.no_grad()
    def _set_masters(self, weights: list[torch.Tensor]) -> None:
        """DeepSpeed rounds the model to half precision first and copies its fp32 master weights from that."""
        for shard in self._layout.shards:
            for piece, master in zip(shard.slices, shard.views(shard.tensor), strict=True):
                master.copy_(weights[piece.parameter].flatten()[piece.start : piece.end])
        self.refresh_weights()

    def _norm_before_sub_groups(self) -> torch.Tensor | None:
        """Stage 3 steps one sub-group at a time, so with several the norm must be known before the first.

        Offloaded gradients lie beside the master weights already, where our optimizer finds them all.
        """
        if self._stage != 3 or len(self._layout.shards) == 1 or self._offloads_optimizer:
            return None
        gradients = self._engine.optimizer.averaged_gradients
        flats = [
            torch.cat([part.flatten() for part in gradients[sub_group]]).float()
            for sub_group in range(len(self._layout.shards))
        ]
        return self._layout.global_norm(Sliced(self._layout.table, flats))


def engine_json(options: EngineOptions) -> dict[str, Any]:
    """The config that DeepSpeed itself gets: the user's ZeRO block, and what keeps results exact.

    Clipping is 0 because our optimizer clips by its own norm; gradients are accumulated and summed in fp32.
    """
    config, stage = options.config, options.config.stage
    bf16, fp16 = options.precision == "bf16", options.precision == "fp16"
    return {
        "train_batch_size": options.micro_batch * options.accumulation * options.world_size,
        "train_micro_batch_size_per_gpu": options.micro_batch,
        "gradient_accumulation_steps": options.accumulation,
        "gradient_clipping": 0.0,
        "zero_optimization": _zero_json(options),
        "bf16": {"enabled": bf16 and stage > 0}
        | ({_CHECKS_OVERFLOW: False} if _CHECKS_OVERFLOW in DeepSpeedBF16Config.model_fields else {}),
        "fp16": {"enabled": fp16 and stage > 0, "loss_scale": 1.0},
        # Stage 0 has no fp32 master weights of its own: fp32 parameters under autocast are the masters.
        "torch_autocast": {
            "enabled": (bf16 or fp16) and stage == 0,
            "dtype": "float16" if fp16 else "bfloat16",
        },
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": config.steps_per_print if isinstance(config.steps_per_print, int) else None,
        "wall_clock_breakdown": config.wall_clock_breakdown,
    }


def _zero_json(options: EngineOptions) -> dict[str, Any]:
    """The user's ZeRO block as DeepSpeed gets it."""
    block = options.config.zero_optimization
    zero = {name: value for name, value in block.given().items() if name not in NO_EFFECT}
    zero |= {"stage": block.stage}
    zero.setdefault("sub_group_size", 1_000_000_000)
    for name in ("offload_optimizer", "offload_param"):
        if zero.get(name, {}).get("device") == "cpu":
            # NVMe's keys have nothing to do beside it.
            zero[name] = {"device": "cpu", "pin_memory": block.pins_memory and options.device.type != "cpu"}
        else:
            zero.pop(name, None)
    zero.pop("mics_shard_size", None)
    # It refuses to leave its norm out at stage 3, at stage 1 in bf16, and where it offloads.
    may_be_left_out = block.stage == 2 or (block.stage == 1 and options.precision != "bf16")
    if (
        may_be_left_out
        and not block.offloads_optimizer
        and _COMPUTES_NORM in DeepSpeedZeroConfig.model_fields
    ):
        zero[_COMPUTES_NORM] = False
    return zero
