"""The engine config: how it is computed. DeepSpeed's JSON is its language, for both backends.

A key is honoured, or a hint that changes speed but no result (under FSDP, buckets have no counterpart), or
part of what the recipe says (batch, optimizer, scheduler; see `resolve`), or refused by its name.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

Auto = Literal["auto"]
PositiveInt = Annotated[int, Field(gt=0)]
Count = Annotated[int | float, Field(ge=0)]  # DeepSpeed's own examples write 5e8


class Block(BaseModel):
    """A JSON object of the ds_config; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ZeroOptimization(Block):
    """What is sharded. FSDP maps the stages to: replicated; gradients whole until the last micro-batch; gradients
    reduce-scattered each micro-batch; parameters resharded after the forward pass too."""

    stage: Literal[0, 1, 2, 3] = 0
    overlap_comm: bool | None = None
    contiguous_gradients: bool | None = None
    reduce_scatter: bool | None = None
    round_robin_gradients: bool | None = None
    allgather_partitions: bool | None = None
    reduce_bucket_size: Count | Auto | None = None
    allgather_bucket_size: Count | Auto | None = None
    sub_group_size: Count | Auto | None = None
    stage3_prefetch_bucket_size: Count | Auto | None = None
    stage3_param_persistence_threshold: Count | Auto | None = None
    stage3_max_live_parameters: Count | Auto | None = None
    stage3_max_reuse_distance: Count | Auto | None = None

    def given(self) -> dict[str, Any]:
        """The keys that were written, `auto` left out, whole counts as integers."""
        written = {name: getattr(self, name) for name in self.model_fields_set}
        return {
            name: int(value) if isinstance(value, float) else value
            for name, value in written.items()
            if value not in ("auto", None)
        }


class Bf16(Block):
    """bfloat16 compute over fp32 master weights; `auto`: where the hardware does it fast."""

    enabled: bool | Auto = False


class Fp16(Block):
    """fp16 compute over fp32 master weights (`auto`: no) and its loss scale, with DeepSpeed's names and defaults.

    `loss_scale` 0 is a dynamic one, which the other keys govern (see `LossScaler`). `auto_cast` has nothing to
    do: the model's inputs are integers.
    """

    enabled: bool | Auto = False
    auto_cast: bool | None = None
    loss_scale: Annotated[float, Field(ge=0, le=2.0**126)] = 0.0
    initial_scale_power: Annotated[int, Field(ge=0, le=126)] = 16
    loss_scale_window: PositiveInt = 1000
    hysteresis: PositiveInt = 2
    consecutive_hysteresis: bool = False
    min_loss_scale: Annotated[float, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _starts_above_its_floor(self) -> Self:
        if self.loss_scale == 0 and self.min_loss_scale > 2.0**self.initial_scale_power:
            raise ValueError("min_loss_scale is above 2 to the power of initial_scale_power: lower it")
        return self


class DataTypes(Block):
    """Gradients are always accumulated in fp32."""

    grad_accum_dtype: Literal["fp32", "auto"] = "fp32"


class OptimizerParams(Block):
    """Hyper-parameters by DeepSpeed's names."""

    lr: float | Auto = "auto"
    betas: list[float] | Auto = "auto"
    eps: float | Auto = "auto"
    weight_decay: float | Auto = "auto"
    bias_correction: bool | Auto = "auto"
    momentum: float | Auto = "auto"
    nesterov: bool | Auto = "auto"
    max_coeff: float | Auto = "auto"
    min_coeff: float | Auto = "auto"
    torch_adam: bool | None = None
    adam_w_mode: Literal[True] | None = None


class OptimizerBlock(Block):
    """DeepSpeed's `Adam` is AdamW unless told otherwise, and is read so."""

    type: Literal["Lamb", "FusedLamb", "Adam", "AdamW", "SGD"]
    params: OptimizerParams = OptimizerParams()


OPTIMIZER_TYPES = {"Lamb": "lamb", "FusedLamb": "lamb", "Adam": "adamw", "AdamW": "adamw", "SGD": "sgd"}


class SchedulerParams(Block):
    """Parameters of DeepSpeed's schedulers that have a schedule of their form here.

    What is left out is the recipe's to say, as with `"auto"`: DeepSpeed's own defaults do not hold.
    """

    warmup_min_lr: Literal[0, "auto"] | Annotated[float, Field(ge=0, le=0)] = "auto"
    warmup_max_lr: float | Auto = "auto"
    warmup_num_steps: int | Auto = "auto"
    total_num_steps: int | Auto = "auto"
    warmup_type: Literal["linear", "log", "auto"] = "auto"
    warmup_min_ratio: Literal[0, "auto"] | Annotated[float, Field(ge=0, le=0)] = "auto"
    cos_min_ratio: float | Auto = "auto"


# DeepSpeed's schedulers and the schedules of their form.
SCHEDULER_TYPES = {"WarmupLR": "constant", "WarmupDecayLR": "linear", "WarmupCosineLR": "cosine"}
_REFUSED_SCHEDULERS = {
    "OneCycle": "it cycles rate and momentum, which is not carried; leave the block out and say schedule.name, "
    "schedule.warmup and optimizer.lr in the recipe",
    "LRRangeTest": "a range test is no training; leave the block out and start a short run for each optimizer.lr",
}
_COSINE_PARAMS = frozenset({"warmup_min_ratio", "cos_min_ratio"})
_RATE_PARAMS = frozenset({"warmup_min_lr", "warmup_max_lr"})
_FOREIGN_PARAMS = {
    "WarmupLR": _COSINE_PARAMS | {"total_num_steps"},
    "WarmupDecayLR": _COSINE_PARAMS,
    "WarmupCosineLR": _RATE_PARAMS,
}


class SchedulerBlock(Block):
    """A scheduler of DeepSpeed, as the schedule of its form (see ds_configs/README.md for the steps between them)."""

    type: Literal["WarmupLR", "WarmupDecayLR", "WarmupCosineLR"]
    params: SchedulerParams = SchedulerParams()

    @field_validator("type", mode="before")
    @classmethod
    def _carried(cls, name: Any) -> Any:
        if isinstance(name, str) and name in _REFUSED_SCHEDULERS:
            raise ValueError(_REFUSED_SCHEDULERS[name])
        return name

    @model_validator(mode="after")
    def _own_params(self) -> Self:
        foreign = sorted(_FOREIGN_PARAMS[self.type] & self.params.model_fields_set)
        if foreign:
            raise ValueError(f"{self.type} has no parameter {foreign[0]}; leave it out")
        return self


class EngineConfig(Block):
    """The ds_config as a whole."""

    train_batch_size: PositiveInt | Auto = "auto"
    train_micro_batch_size_per_gpu: PositiveInt | Auto = "auto"
    gradient_accumulation_steps: PositiveInt | Auto = "auto"
    gradient_clipping: Annotated[float, Field(ge=0)] | Auto = "auto"
    zero_optimization: ZeroOptimization = ZeroOptimization()
    bf16: Bf16 = Bf16()
    fp16: Fp16 = Fp16()
    data_types: DataTypes = DataTypes()
    communication_data_type: Literal["fp32", "auto"] = "fp32"
    optimizer: OptimizerBlock | None = None
    scheduler: SchedulerBlock | None = None
    zero_allow_untested_optimizer: bool = True
    zero_force_ds_cpu_optimizer: bool = False
    steps_per_print: PositiveInt | Auto | None = None
    wall_clock_breakdown: bool = False

    @field_validator("fp16")
    @classmethod
    def _one_half_precision(cls, fp16: Fp16, info: ValidationInfo) -> Fp16:
        bf16 = info.data.get("bf16")
        if fp16.enabled is True and bf16 is not None and bf16.enabled is True:
            raise ValueError("bf16.enabled and fp16.enabled exclude each other: set one of them to false")
        return fp16

    @property
    def stage(self) -> int:
        return self.zero_optimization.stage


# Keys that DeepSpeed documents and this framework does not carry, with what to do instead.
REFUSED_KEYS = {
    "activation_checkpointing": "set train.activation_checkpointing in the recipe",
    "amp": "use bf16",
    "fp16.fp16_master_weights_and_grads": "leave it out: master weights are always fp32",
    "torch_autocast": "use bf16",
    "tensorboard": "the run folder always has tensorboard/",
    "csv_monitor": "the run folder always has metrics.jsonl",
    "wandb": "read metrics.jsonl",
    "checkpoint": "set checkpoint.every and checkpoint.keep in the recipe",
    "prescale_gradients": "gradients are always summed in fp32; leave it out",
    "gradient_predivide_factor": "gradients are always summed in fp32; leave it out",
    "zero_optimization.offload_optimizer": "leave it out or choose a higher stage",
    "zero_optimization.offload_param": "leave it out or use stage 3 on more ranks",
    "zero_optimization.cpu_offload": "leave it out or choose a higher stage",
    "zero_optimization.zero_hpz_partition_size": "leave it out",
    "zero_optimization.zero_quantized_weights": "leave it out",
    "zero_optimization.zero_quantized_gradients": "leave it out",
    "zero_optimization.stage3_gather_16bit_weights_on_model_save": "leave it out: the model is always exported whole",
    **dict.fromkeys(
        ("flops_profiler", "comms_logger", "aio", "autotuning", "curriculum_learning", "data_efficiency",
         "sparse_attention", "sparse_gradients", "compression_training", "elasticity", "pipeline", "compile",
         "dump_state", "memory_breakdown", "hybrid_engine", "tensor_parallel", "seq_parallel_communication_data_type",
         "eigenvalue", "progressive_layer_drop", "quantize_training", "data_sampling", "zenflow"),
        "leave it out",
    ),
}  # fmt: skip

# Hints for DeepSpeed: they change speed, never a result, and have no counterpart in FSDP.
DEEPSPEED_HINTS = (
    "overlap_comm", "contiguous_gradients", "reduce_scatter", "round_robin_gradients", "allgather_partitions",
    "reduce_bucket_size", "allgather_bucket_size", "sub_group_size", "stage3_prefetch_bucket_size",
    "stage3_param_persistence_threshold", "stage3_max_live_parameters", "stage3_max_reuse_distance",
)  # fmt: skip
