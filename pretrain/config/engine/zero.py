"""The `zero_optimization` block: what is sharded over which ranks, where it lies, and in which portions it moves."""

from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from pretrain.config.engine.block import Auto, Block, Count

_NVME = "nvme is not carried: its swap files hold the weights out of reach of the optimizer; use cpu"


def _even(count: float) -> float:
    if count % 2:
        raise ValueError("input should be even, since DeepSpeed aligns what it gathers to two elements")
    return count


class Offload(Block):
    """Where a part of the state lies; `none` is as if the block were left out.

    `nvme_path`, `buffer_count`, `buffer_size` and `max_in_cpu` say how NVMe is used: beside `cpu` they have nothing
    to do, and real files have them there.
    """

    device: Literal["cpu", "none"] = "none"
    pin_memory: bool | None = None
    nvme_path: str | None = None
    buffer_count: Count | None = None

    @field_validator("device", mode="before")
    @classmethod
    def _carried(cls, device: Any) -> Any:
        if device == "nvme":
            raise ValueError(_NVME)
        return device


class OffloadParam(Offload):
    """Parameters between the passes (stage 3)."""

    buffer_size: Count | Auto | None = None
    max_in_cpu: Count | Auto | None = None


class OffloadOptimizer(Offload):
    """Master weights, moments and the optimizer step (stages 1 to 3). `fast_init` and the pipelines are NVMe's."""

    fast_init: bool | None = None
    pipeline_read: bool | None = None
    pipeline_write: bool | None = None
    ratio: Annotated[float, Field(ge=1, le=1)] | None = None

    @field_validator("ratio", mode="before")
    @classmethod
    def _whole(cls, ratio: Any) -> Any:
        if isinstance(ratio, int | float) and ratio != 1:
            raise ValueError("a part on the CPU is DeepSpeed's own Adam's; only 1 is carried")
        return ratio


class ZeroOptimization(Block):
    """What is sharded. FSDP maps the stages to: replicated; gradients whole until the last micro-batch; gradients
    reduce-scattered each micro-batch; parameters resharded after the forward pass too."""

    stage: Literal[0, 1, 2, 3] = 0
    mics_shard_size: Literal[-1] | Annotated[int, Field(gt=0)] = -1
    zero_hpz_partition_size: Annotated[int, Field(ge=0)] = 1
    offload_optimizer: OffloadOptimizer | None = None
    offload_param: OffloadParam | None = None
    stage3_gather_16bit_weights_on_model_save: bool | None = None
    stage3_gather_fp16_weights_on_model_save: bool | None = None
    gather_16bit_weights_on_model_save: bool | None = None
    load_from_fp32_weights: bool | None = None
    overlap_comm: bool | None = None
    contiguous_gradients: bool | None = None
    reduce_scatter: bool | None = None
    round_robin_gradients: bool | None = None
    ignore_unused_parameters: bool | None = None
    use_multi_rank_bucket_allreduce: bool | None = None
    allgather_partitions: bool | None = None
    reduce_bucket_size: Annotated[Count, Field(gt=0)] | Auto | None = None
    allgather_bucket_size: Annotated[Count, AfterValidator(_even)] | Auto | None = None
    sub_group_size: Count | Auto | None = None
    stage3_prefetch_bucket_size: Count | Auto | None = None
    stage3_param_persistence_threshold: Count | Auto | None = None
    stage3_model_persistence_threshold: Count | Auto | None = None
    stage3_max_live_parameters: Count | Auto | None = None
    stage3_max_reuse_distance: Count | Auto | None = None
    stage3_use_all_reduce_for_fetch_params: bool | None = None
    stage3_allgather_sequential: bool | None = None
    memory_efficient_linear: bool | None = None
    log_trace_cache_warnings: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _by_todays_names(cls, content: Any) -> Any:
        return _without_old_offload(content) if isinstance(content, dict) else content

    @model_validator(mode="after")
    def _fits_its_stage(self) -> Self:
        for key, wanted, lowest in (
            ("offload_optimizer", self.offloads_optimizer, 1),
            ("offload_param", self.offloads_parameters, 3),
            ("mics_shard_size", self.shard_group is not None, 1),
            ("zero_hpz_partition_size", self.second_group is not None, 3),
        ):
            if wanted and self.stage < lowest:
                stages = "stage 3" if lowest == 3 else f"stage {lowest} or higher"
                raise ValueError(f"{key} needs {stages}, and stage is {self.stage}: change one of them")
        if self.shard_group is not None and self.second_group is not None:
            raise ValueError(
                "mics_shard_size and zero_hpz_partition_size are two ways to the same end: choose one"
            )
        return self

    @property
    def offloads_optimizer(self) -> bool:
        return self.offload_optimizer is not None and self.offload_optimizer.device == "cpu"

    @property
    def offloads_parameters(self) -> bool:
        return self.offload_param is not None and self.offload_param.device == "cpu"

    @property
    def pins_memory(self) -> bool:
        """Whether what is offloaded lies in page-locked memory: unless any block says no."""
        blocks = (self.offload_optimizer, self.offload_param)
        return all(block is None or block.pin_memory is not False for block in blocks)

    @property
    def shard_group(self) -> int | None:
        """How many ranks hold everything once, where that is not all of them."""
        return None if self.mics_shard_size == -1 else self.mics_shard_size

    @property
    def second_group(self) -> int | None:
        """Over how many ranks gathered parameters are cut again between the passes, if other than all."""
        return self.zero_hpz_partition_size if self.zero_hpz_partition_size > 1 else None

    def given(self) -> dict[str, Any]:
        """The keys that were written, `auto` left out, whole counts as integers."""
        return _given(self)


# What changes speed and memory, never a result.
HINTS = (
    "overlap_comm", "contiguous_gradients", "reduce_scatter", "ignore_unused_parameters",
    "use_multi_rank_bucket_allreduce", "allgather_partitions", "reduce_bucket_size", "allgather_bucket_size",
    "sub_group_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold",
    "stage3_model_persistence_threshold", "stage3_max_live_parameters", "stage3_max_reuse_distance",
    "stage3_use_all_reduce_for_fetch_params", "stage3_allgather_sequential",
    "memory_efficient_linear", "log_trace_cache_warnings",
)  # fmt: skip
# Those with a counterpart in FSDP.
FSDP_HINTS = frozenset({"stage3_prefetch_bucket_size"})
# Accepted, and without effect under either engine. DeepSpeed's table of where the pieces of a parameter lie does not
# follow `round_robin_gradients`, so that it must not see it: LAMB by that table was far off, and nothing said so.
NO_EFFECT = frozenset(
    {
        "round_robin_gradients",
        "stage3_gather_16bit_weights_on_model_save",
        "stage3_gather_fp16_weights_on_model_save",
        "gather_16bit_weights_on_model_save",
        "load_from_fp32_weights",
    }
)
# Deprecated names, by DeepSpeed's own reading of them.
OLD_OFFLOAD = MappingProxyType({"cpu_offload": "offload_optimizer", "cpu_offload_param": "offload_param"})
OLD_PINNING = "cpu_offload_use_pin_memory"


def _given(block: Block) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in type(block).model_fields:
        value = getattr(block, name)
        if name not in block.model_fields_set or value in ("auto", None):
            continue
        if isinstance(value, Block):
            value = _given(value)
        found[name] = int(value) if isinstance(value, float) and value == int(value) else value
    return found


def _without_old_offload(content: dict[str, Any]) -> dict[str, Any]:
    """The block with offload by its names of today."""
    content = dict(content)
    pin = content.pop(OLD_PINNING, None)
    for old, new in OLD_OFFLOAD.items():
        if old not in content:
            continue
        if content.get(new) is not None:
            raise ValueError(f"{old} is the old name of {new}: keep one of them")
        wanted = content.pop(old)
        if wanted is True:
            content[new] = {"device": "cpu"} | ({} if pin is None else {"pin_memory": pin})
        elif wanted is not False:
            raise ValueError(f"{old} is {wanted!r}: it is true or false, and {new} is its new name")
    return content
