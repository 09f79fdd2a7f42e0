"""Memory of one rank at its peak, for any engine, stage and precision.

Live bytes, in elements T of trained parameters (F frozen), of which the fullest rank holds
h (`shards`), and b bytes for each where the passes compute (4, or 2 under bf16 and fp16). B is the smaller of T and
`reduce_bucket_size`, A that of T and 5e8, U the largest unit that FSDP gathers (a layer, or all that is in none):

| engine, stage | weights | optimizer | gradients | buffers |
|---|---|---|---|---|
| DeepSpeed 0 | 4 (T + F) | 4 k T | 4 T | 4 A, summed over ranks in one piece |
| DeepSpeed 1, fp32 and fp16 | b (T + F) + 4 h | 4 k h | 4 T + 4 h | 8 B |
| DeepSpeed 1, bf16 (`BF16_Optimizer`) | b (T + F) + 4 h | 4 k h | 4 T | 4 h, in the step |
| DeepSpeed 2 | b (T + F) + 4 h | 4 k h | 4 h | 8 B |
| DeepSpeed 3 | b h + 4 h | 4 k h | 4 h | 8 B, b (T + F) gathered |
| FSDP 0, 1 | 4 h | 4 k h | 4 T + 4 h | b (T + F) gathered, 8 U |
| FSDP 2 | 4 h | 4 k h | 4 h | b (T + F) gathered, 8 U |
| FSDP 3 | 4 h | 4 k h | 4 h | b of the two largest units gathered, 8 U |

k is the number of moments. Stage 0 under DeepSpeed computes in half precision by autocast: the copies that it casts are
activations, which are traced (`activations`). Frozen parameters have no master, moment or gradient; DeepSpeed keeps
their fp32 values besides. Where it sums what engine and optimizer keep whole (stage 0, `BF16_Optimizer`) it goes by a
bucket of its own and not by `reduce_bucket_size`. What stage 3 gathers is at most `stage3_max_live_parameters`. On a
GPU a bucket takes its whole size at once, however few elements there are, twice under `overlap_comm` at stages 1 and 2,
and what is offloaded lies elsewhere. Secondary partitions (`zero_hpz_partition_size`) and prefetching are left out.
"""

from dataclasses import dataclass

from pretrain.backends.base import Precision
from pretrain.backends.carried import BackendName
from pretrain.plan.parameters import Shapes
from pretrain.plan.shards import held_numel

_FP32 = 4
_HALF = 2
_DEEPSPEED_BUCKET = 500_000_000  # elements, where the ds_config says none
_WHOLE_BUCKET = 500_000_000  # of what is kept whole, whatever it says (`MEMORY_OPT_ALLREDUCE_SIZE`)
_MAX_LIVE = 1_000_000_000


@dataclass(frozen=True)
class Engine:
    """What decides where states lie. `shard_group`: ranks that hold everything once, where that is not all of them;
    `second_group`: those of a secondary partition. `overlap_comm`: None where the ds_config does not say it."""

    backend: BackendName
    stage: int
    precision: Precision
    ranks: int
    num_moments: int
    reduce_bucket: int = _DEEPSPEED_BUCKET
    max_live: int = _MAX_LIVE
    overlap_comm: bool | None = None
    shard_group: int | None = None
    second_group: int | None = None
    on_gpu: bool = False
    offloads_optimizer: bool = False  # from a GPU to the host: masters, moments and gradients

    @property
    def compute_bytes(self) -> int:
        """For each element where the passes compute."""
        whole = self.precision == "fp32" or (self.backend == "deepspeed" and self.stage == 0)
        return _FP32 if whole else _HALF

    @property
    def keeps_gradients_whole(self) -> bool:
        """Whether DeepSpeed sums them all after the last backward pass, as at stage 0 and by `BF16_Optimizer`."""
        return self.stage == 0 or (self.stage == 1 and self.precision == "bf16")

    @property
    def summed_bucket(self) -> int:
        """Elements of gradients that DeepSpeed exchanges at once, at most."""
        return _WHOLE_BUCKET if self.keeps_gradients_whole else self.reduce_bucket

    @property
    def group(self) -> int:
        """Ranks over which parameters are cut."""
        return 1 if self.stage == 0 else self.shard_group or self.ranks


@dataclass(frozen=True)
class LiveBytes:
    """What is held at once, in bytes of one rank."""

    weights: int
    optimizer: int
    gradients: int
    buffers: int
    activations: int
    on_host: int = 0  # of the above, what is offloaded: not on the device

    @property
    def states(self) -> int:
        return self.weights + self.optimizer

    @property
    def total(self) -> int:
        return self.states + self.gradients + self.buffers + self.activations - self.on_host


def live_bytes(engine: Engine, shapes: Shapes, activations: int) -> LiveBytes:
    """By the table above."""
    held = held_numel(engine.backend, engine.stage, shapes.trained, engine.group)
    frozen = held_numel(engine.backend, engine.stage, shapes.frozen, engine.group)
    optimizer = _FP32 * engine.num_moments * held
    of_engine = _deepspeed if engine.backend == "deepspeed" else _fsdp
    weights, gradients, buffers = of_engine(engine, shapes, held, frozen)
    on_host = optimizer + 2 * _FP32 * held if engine.offloads_optimizer and engine.stage > 0 else 0
    return LiveBytes(weights, optimizer, gradients, buffers, activations, on_host)


def _deepspeed(engine: Engine, shapes: Shapes, held: int, frozen: int) -> tuple[int, int, int]:
    """(weights, gradients, buffers)."""
    trained, everything, each = shapes.trained_numel, shapes.numel, engine.compute_bytes
    summed = _FP32 * min(trained, engine.summed_bucket)
    if engine.stage == 0:
        return _FP32 * everything, _FP32 * trained, summed if engine.ranks > 1 else 0
    buckets = summed + (_buckets_on_gpu(engine) if engine.on_gpu else summed)
    masters = _FP32 * (held + frozen)
    if engine.stage == 3:
        gathered = each * min(everything, engine.max_live)
        return each * (held + frozen) + masters, _FP32 * held, buckets + gathered
    weights = each * everything + masters
    if engine.stage == 2:
        return weights, _FP32 * held, buckets
    if engine.precision == "bf16":
        return weights, _FP32 * trained, _FP32 * held
    return weights, _FP32 * (trained + held), buckets


def _buckets_on_gpu(engine: Engine) -> int:
    """Bytes of the buckets that DeepSpeed fills: fp32 at stage 1, which accumulates so, else of the gradients' type."""
    each = _FP32 if engine.stage == 1 else engine.compute_bytes
    return (2 if engine.overlap_comm and engine.stage < 3 else 1) * each * engine.reduce_bucket


def _fsdp(engine: Engine, shapes: Shapes, held: int, frozen: int) -> tuple[int, int, int]:
    """(weights, gradients, buffers)."""
    units = sorted((*shapes.layer_numels, shapes.rest_numel), reverse=True)
    gathered = shapes.numel if engine.stage < 3 else sum(units[:2])
    gradients = _FP32 * held + (_FP32 * shapes.trained_numel if engine.stage < 2 else 0)
    buffers = engine.compute_bytes * gathered + 2 * _FP32 * units[0]
    return _FP32 * (held + frozen), gradients, buffers
