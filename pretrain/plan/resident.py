"""Resident bytes of a process on the CPU: what is live, and what the C library keeps of what was.

A run keeps what it frees (`heap`), and what lies between pieces that are still held is rarely of the size that is asked
for next. So weights that an engine has copied, what is gathered layer by layer, and gradients on their way leave holes
(`_KEPT`). Activations, which come and go by layers, leave others that gradients then fill (`_FILLED`). Both figures
were measured on two gloo ranks, and are no law: `python -m tests.benchmarks.plan_memory` says how far they hold.

A copy of what is saved comes at the first checkpoint. After the last step it lies where large buffers were; before it,
beside them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pretrain.backends.carried import BackendName
from pretrain.plan.memory import Engine, LiveBytes
from pretrain.plan.parameters import Shapes
from pretrain.plan.rows import RowFigures
from pretrain.plan.shards import held_numel

_FP32 = 4
# By engine and stage, in bytes for each element of a parameter: whatever the precision, and for each byte of an
# element where the passes compute.
_KEPT: Mapping[tuple[BackendName, int], tuple[float, float]] = MappingProxyType(
    {
        ("deepspeed", 0): (10.0, 0.0),
        ("deepspeed", 1): (1.7, 4.45),
        ("deepspeed", 2): (21.4, 0.0),
        ("deepspeed", 3): (20.8, 1.0),
        ("fsdp", 0): (0.5, 2.6),
        ("fsdp", 1): (0.7, 3.2),
        ("fsdp", 2): (5.9, 2.35),
        ("fsdp", 3): (3.4, 5.0),
    }
)
_FILLED = 0.45  # of the bytes of activations
_BYTES_PER_PLACE = 3 * 8 + 4  # of a batch: three int64 and one int32
_STEPS_AHEAD = 4  # in the loader's queue, in the making, in training


@dataclass(frozen=True)
class Resident:
    """Beside what is live, in bytes."""

    libraries: int
    data: int
    kept: int
    saving: int

    def peak(self, live: LiveBytes) -> int:
        return live.total + self.libraries + self.data + self.kept + self.saving


def resident_bytes(
    engine: Engine,
    shapes: Shapes,
    live: LiveBytes,
    *,
    libraries: int,
    data: int,
    saves_before_end: bool,
) -> Resident:
    """Of the fullest rank, which is rank 0."""
    numel = sum(each.numel for each in shapes.trained + shapes.frozen)
    always, of_passes = _KEPT[engine.backend, engine.stage]
    holes = numel * (always + engine.compute_bytes * of_passes)
    kept = max(0, round(holes - _FILLED * live.activations))
    copied = _snapshot_bytes(engine, shapes)
    given_back = 0 if saves_before_end else _given_back(engine, shapes)
    return Resident(libraries, data, kept, max(0, copied - given_back))


def _snapshot_bytes(engine: Engine, shapes: Shapes) -> int:
    """The copy of master weights and moments that is written."""
    held = held_numel(engine.backend, engine.stage, shapes.trained, engine.group)
    frozen = held_numel(engine.backend, engine.stage, shapes.frozen, engine.group)
    return _FP32 * ((1 + engine.num_moments) * held + frozen)


def _given_back(engine: Engine, shapes: Shapes) -> int:
    """After the last step: buckets, and what is not sharded of the gradients. Validation under DeepSpeed's stage 3
    gathers the weights anew, in one piece and in two copies."""
    trained, bucket = (
        _FP32 * shapes.trained_numel,
        2 * _FP32 * min(shapes.trained_numel, engine.summed_bucket),
    )
    if engine.backend == "fsdp":
        return trained if engine.stage == 0 else 0
    if engine.stage == 0:
        return trained + bucket // 4
    if engine.stage == 3:
        return max(0, bucket - 2 * engine.compute_bytes * shapes.trained_numel)
    return 0 if engine.stage == 1 and engine.precision == "bf16" else bucket


def batch_bytes(rows: RowFigures, rows_per_step: int) -> int:
    """Micro-batches of the steps that are made ahead, on one rank, and the windows that they are from."""
    return _STEPS_AHEAD * rows_per_step * rows.seq_len * _BYTES_PER_PLACE + rows.window_bytes
