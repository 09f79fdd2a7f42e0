"""The ds_config as a whole."""

from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from pretrain.config.engine.block import Auto, Block, PositiveInt
from pretrain.config.engine.precision import Bf16, DataTypes, Fp16
from pretrain.config.engine.recipe_owned import OptimizerBlock, SchedulerBlock
from pretrain.config.engine.refused import without_what_is_off
from pretrain.config.engine.zero import OLD_OFFLOAD, OLD_PINNING, ZeroOptimization

# Accepted, and without effect under either engine: the optimizer is this framework's own.
ENGINE_KEYS_WITHOUT_EFFECT = frozenset({"zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer"})

OLD_BF16 = "bfloat16"
# Deprecated keys and those that they are read as.
OLD_NAMES = MappingProxyType(
    {
        OLD_BF16: "bf16",
        **{f"zero_optimization.{old}": f"zero_optimization.{new}" for old, new in OLD_OFFLOAD.items()},
        f"zero_optimization.{OLD_PINNING}": "zero_optimization.offload_optimizer.pin_memory",
    }
)


class EngineConfig(Block):
    """The ds_config; a key that is refused may stand in it where its value means "off"."""

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

    @model_validator(mode="before")
    @classmethod
    def _by_todays_names(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        content = dict(content)
        if OLD_BF16 in content:
            if "bf16" in content:
                raise ValueError(f"{OLD_BF16} is the old name of bf16: keep one of them")
            content["bf16"] = content.pop(OLD_BF16)
        return without_what_is_off(content)

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

    @property
    def rows_per_rank(self) -> int | None:
        """Of a step, where the ds_config says them as micro-batch x accumulation and no global batch."""
        micro_batch, accumulation = self.train_micro_batch_size_per_gpu, self.gradient_accumulation_steps
        if self.train_batch_size != "auto" or micro_batch == "auto" or accumulation == "auto":
            return None
        return micro_batch * accumulation
