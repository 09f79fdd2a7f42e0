"""What a run's checkpoints take: bytes of one, of each rank's file, and on disk with all that stay."""

from dataclasses import dataclass

from pretrain.checkpoint import Retention
from pretrain.config import Recipe
from pretrain.optim import AdafactorOptions, Rule
from pretrain.optim.adafactor import Matrices
from pretrain.plan.memory import Engine
from pretrain.plan.parameters import Shapes
from pretrain.plan.shards import held_numel
from pretrain.sharding import ShardLayout

_FP32 = 4


@dataclass(frozen=True)
class CheckpointFigures:
    """Bytes of data; a file's header and the manifest, some 100 bytes for each parameter, are left out.

    `rank_bytes`: of rank 0's file, the largest. `saved`: how many are written; `kept`: how many are there at the end.
    `disk_bytes`: those, one more that is being written, and the exported model.
    """

    whole_bytes: int
    rank_bytes: int
    files: int
    saved: int
    kept: int
    model_bytes: int

    @property
    def disk_bytes(self) -> int:
        return (self.kept + 1) * self.whole_bytes + self.model_bytes


def checkpoint_figures(
    recipe: Recipe, engine: Engine, shapes: Shapes, rule: Rule, steps: int
) -> CheckpointFigures:
    """Of a run of so many steps. Without `checkpoint.every` the last step alone is saved."""
    kinds = 1 + len(rule.moment_kinds)
    vectors = _FP32 * _vector_numel(rule, shapes)
    group = engine.group
    rank = _FP32 * (
        kinds * held_numel(engine.backend, engine.stage, shapes.trained, group)
        + held_numel(engine.backend, engine.stage, shapes.frozen, group)
    )
    every = recipe.checkpoint.every
    saved = sorted({*(range(every, steps + 1, every) if every else ()), steps})
    section = recipe.checkpoint
    retention = Retention(section.keep, section.keep_every, recipe.looks_for_best)
    best = saved[0] if recipe.looks_for_best and len(saved) > section.keep else None
    gone = retention.superseded(saved, steps, best)
    return CheckpointFigures(
        whole_bytes=_FP32 * (kinds * shapes.trained_numel + shapes.frozen_numel) + vectors,
        rank_bytes=rank + vectors,
        files=group,
        saved=len(saved),
        kept=len(saved) - len(gone),
        model_bytes=_FP32 * shapes.numel,
    )


def _vector_numel(rule: Rule, shapes: Shapes) -> int:
    """Adafactor's averages, which rank 0 writes whole."""
    if not isinstance(rule, AdafactorOptions):
        return 0
    matrices = Matrices.of(ShardLayout(shapes.trained, ()))
    return sum(rows + columns for rows, columns in matrices.shapes)
