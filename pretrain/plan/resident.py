"""Resident bytes of a process on the CPU: what is live, and what the C library keeps of what was.

glibc gives a piece of memory back at once only where it is larger than 32 MiB; smaller ones stay in its heap, and what
lies between pieces that are still held is rarely of the size that is asked for next. So weights that an engine has
copied, what is gathered layer by layer, and gradients on their way leave holes. How many, as multiples of the bytes of
all small parameters, was measured (`python -m tests.benchmarks.plan_memory`) and is no law: `_KEPT`.

At the end of a run, or at its first checkpoint, comes the copy that is written; it takes the place of the large
buffers, which were given back.
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
_GIVEN_BACK = 32 << 20  # bytes of a piece: glibc's DEFAULT_MMAP_THRESHOLD_MAX
# By engine and stage: of the model that was built, in fp32; and of what the passes move, in their own precision.
_KEPT: Mapping[tuple[BackendName, int], tuple[float, float]] = MappingProxyType(
    {
        ("deepspeed", 0): (0.0, 1.0),
        ("deepspeed", 1): (0.8, 0.6),
        ("deepspeed", 2): (0.8, 0.5),
        ("deepspeed", 3): (1.7, 1.3),
        ("fsdp", 0): (1.0, 1.2),
        ("fsdp", 1): (1.0, 1.6),
        ("fsdp", 2): (1.0, 1.9),
        ("fsdp", 3): (1.0, 3.7),
    }
)
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
    small = sum(each.numel for each in shapes.trained + shapes.frozen if _FP32 * each.numel < _GIVEN_BACK)
    of_build, of_passes = _KEPT[engine.backend, engine.stage]
    kept = round(small * (_FP32 * of_build + engine.compute_bytes * of_passes))
    copied = _snapshot_bytes(engine, shapes)
    given_back = 0 if saves_before_end else _given_back(engine, shapes)
    return Resident(libraries, data, kept, max(0, copied - given_back))


def _snapshot_bytes(engine: Engine, shapes: Shapes) -> int:
    """The copy of master weights and moments that is written, and what validation gathers beside it."""
    held = held_numel(engine.backend, engine.stage, shapes.trained, engine.group)
    frozen = held_numel(engine.backend, engine.stage, shapes.frozen, engine.group)
    return _FP32 * ((1 + engine.num_moments) * held + frozen)


def _given_back(engine: Engine, shapes: Shapes) -> int:
    """Of the buffers, what is in one piece and not needed in the step."""
    return 0


def batch_bytes(rows: RowFigures, rows_per_step: int) -> int:
    """Micro-batches of the steps that are made ahead, on one rank, and the windows that they are from."""
    return _STEPS_AHEAD * rows_per_step * rows.seq_len * _BYTES_PER_PLACE + rows.window_bytes
