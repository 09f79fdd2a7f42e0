"""A run as the models of memory and time see it: its engine, and what a step of it computes and exchanges."""

from dataclasses import replace

from pretrain.backends.base import Precision
from pretrain.backends.carried import BackendName
from pretrain.config import RunConfig
from pretrain.model.build import recomputed_layers
from pretrain.optim import Rule
from pretrain.plan.exchanges import Overlap
from pretrain.plan.memory import Engine
from pretrain.plan.optimizer_step import optimizer_bytes
from pretrain.plan.parameters import Shapes
from pretrain.plan.scale import Job


def engine_of(
    config: RunConfig, backend: BackendName, ranks: int, precision: Precision, rule: Rule, on_gpu: bool
) -> Engine:
    """By the ds_config."""
    zero = config.engine.zero_optimization
    bucket = zero.given().get("reduce_bucket_size")
    engine = Engine(
        backend,
        zero.stage,
        precision,
        ranks,
        len(rule.moment_kinds),
        shard_group=zero.shard_group,
        on_gpu=on_gpu,
        offloads_optimizer=on_gpu and (zero.offloads_optimizer or zero.offloads_parameters),
    )
    return engine if bucket is None else replace(engine, reduce_bucket=bucket)


def job_of(config: RunConfig, engine: Engine, shapes: Shapes, micro_batch: int, rule: Rule) -> Job:
    """By recipe and ds_config. `micro_batch`: rows."""
    zero, layers = config.engine.zero_optimization, len(shapes.layer_numels)
    recomputed = recomputed_layers(config.recipe.train.activation_checkpointing, layers)
    return Job(
        engine,
        shapes,
        micro_batch,
        Overlap(zero.overlap_comm, zero.second_group),
        optimizer_bytes(rule),
        recomputed=len(recomputed) / max(1, layers),
    )
