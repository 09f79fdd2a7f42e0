"""A run as the models of memory and time see it: its engine, and what a step of it computes and exchanges."""

from pretrain.backends.base import Precision
from pretrain.backends.carried import BackendName
from pretrain.config import RunConfig
from pretrain.model.build import recomputed_layers
from pretrain.optim import Rule
from pretrain.plan.memory import Engine
from pretrain.plan.optimizer_step import optimizer_bytes
from pretrain.plan.parameters import Shapes
from pretrain.plan.scale import Job


def engine_of(
    config: RunConfig, backend: BackendName, ranks: int, precision: Precision, rule: Rule, on_gpu: bool
) -> Engine:
    """By the ds_config."""
    zero = config.engine.zero_optimization
    given = zero.given()
    said = {"reduce_bucket": "reduce_bucket_size", "max_live": "stage3_max_live_parameters"}
    return Engine(
        backend,
        zero.stage,
        precision,
        ranks,
        len(rule.moment_kinds),
        overlap_comm=zero.overlap_comm,
        shard_group=zero.shard_group,
        second_group=zero.second_group,
        on_gpu=on_gpu,
        offloads_optimizer=on_gpu and (zero.offloads_optimizer or zero.offloads_parameters),
        **{name: given[key] for name, key in said.items() if key in given},
    )


def job_of(config: RunConfig, engine: Engine, shapes: Shapes, micro_batch: int, rule: Rule) -> Job:
    """By recipe and ds_config. `micro_batch`: rows."""
    layers = len(shapes.layer_numels)
    recomputed = recomputed_layers(config.recipe.train.activation_checkpointing, layers)
    return Job(
        engine,
        shapes,
        micro_batch,
        optimizer_bytes(rule),
        recomputed=len(recomputed) / max(1, layers),
    )
