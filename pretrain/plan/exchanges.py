"""What the ranks exchange in a step, by engine and ZeRO stage: how many bytes, how often, and behind which pass.

Of T trained and P parameters of all, in gradients of g bytes (fp32: they are always summed so) and weights of b bytes
where the passes compute:

| engine, stage | gradients | weights |
|---|---|---|
| DeepSpeed 0 | all-reduce of g T, after the last backward pass | |
| DeepSpeed 1 | all-reduce of g T, in or after the last backward pass | all-gather of b T after the step |
| DeepSpeed 2 | all-reduce of g T, every micro-batch | all-gather of b T after the step |
| FSDP 0 | all-reduce of g T, in the last backward pass | |
| FSDP 1 | reduce-scatter of g T, in the last backward pass | all-gather of b P, in the first forward pass |
| FSDP 2 | reduce-scatter of g T, in every backward pass | all-gather of b P, in the first forward pass |
| both, 3 | reduce-scatter of g T, in every backward pass | all-gather of b P, in every forward and backward pass |

DeepSpeed sums the gradients of stages 1 and 2 by all-reduces of whole buckets (`use_multi_rank_bucket_allreduce`),
twice a reduce-scatter's bytes; it does so beside the backward pass where `overlap_comm` says so (by default at stage 3
alone), and never at stage 0, nor at stage 1 under bf16. What is exchanged in a pass goes in pieces: of FSDP one a layer
and one for the rest (embeddings and heads: the root, which is gathered before all others and summed after them, so that
nothing hides it), of DeepSpeed's gradients one a bucket, of equal size. At stage 3 DeepSpeed may keep what it has
gathered (`stage3_max_reuse_distance`) and then gathers less.

In groups (`mics_shard_size`) each exchange stays in its group, and replicas of a group all-reduce their part of the
gradients once a step; a secondary partition (`zero_hpz_partition_size`) is what backward passes gather from.
Whatever is sharded, the optimizer sums squared norms: one number for clipping, two for each parameter for LAMB's trust
ratios; and the loop its losses.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Literal

from pretrain.plan.collectives import Group, Network, all_reduce_seconds, ring_seconds
from pretrain.plan.memory import Engine
from pretrain.plan.parameters import Shapes

FP32 = 4
_FP64 = 8
_LOSSES = 7  # two sums of losses and the votes that ride with them

What = Literal["gradients", "weights", "norms"]
Pass = Literal["forward", "backward"]


@dataclass(frozen=True)
class Exchange:
    """`num_bytes`: of the whole tensor, at one time. `pieces`: collectives that it goes in. `behind`: the pass that
    goes on meanwhile; None: everyone waits. `unhidden_bytes`: of the piece that no pass hides, as it is the first that
    it needs or the last that it leaves; None: of a piece like the others, which are equal."""

    what: What
    operation: Literal["all-reduce", "reduce-scatter", "all-gather"]
    num_bytes: float
    group: Group
    pieces: int = 1
    every_micro_batch: bool = False
    behind: Pass | None = None
    unhidden_bytes: float | None = None

    def seconds(self, network: Network) -> float:
        """At one time, with nothing beside it."""
        return self.unhidden_seconds(network) + self.others_seconds(network)

    def unhidden_seconds(self, network: Network) -> float:
        """Of the piece that no pass hides."""
        return self._collective_seconds(self._unhidden, network)

    def others_seconds(self, network: Network) -> float:
        """Of all the others, one after another."""
        others = self.pieces - 1
        if not others:
            return 0.0
        return others * self._collective_seconds((self.num_bytes - self._unhidden) / others, network)

    @property
    def _unhidden(self) -> float:
        return self.num_bytes / self.pieces if self.unhidden_bytes is None else self.unhidden_bytes

    def _collective_seconds(self, num_bytes: float, network: Network) -> float:
        seconds = all_reduce_seconds if self.operation == "all-reduce" else ring_seconds
        return seconds(num_bytes, self.group, network) if num_bytes else 0.0


def exchanges(
    engine: Engine,
    shapes: Shapes,
    ranks_per_node: int,
    gradient_bytes: int = FP32,
) -> tuple[Exchange, ...]:
    """Of one step, by the table above; none where there is one rank."""
    if engine.ranks == 1:
        return ()
    return (
        *_gradients(engine, shapes, ranks_per_node, gradient_bytes),
        *_weights(engine, shapes, ranks_per_node),
        *_norms(engine, shapes, ranks_per_node),
    )


def _everyone(engine: Engine, ranks_per_node: int) -> Group:
    return Group(engine.ranks, ceil(engine.ranks / ranks_per_node))


def _neighbours(ranks: int, ranks_per_node: int) -> Group:
    """A group of ranks one after another."""
    return Group(ranks, ceil(ranks / ranks_per_node))


def _replicas(engine: Engine, ranks_per_node: int) -> Group:
    """The ranks that hold the same part."""
    replicas = engine.ranks // engine.group
    on_node = max(1, ranks_per_node // engine.group)  # groups end with nodes, or nodes with groups
    return Group(replicas, ceil(replicas / on_node))


def _units(shapes: Shapes) -> int:
    return len(shapes.layer_numels) + 1


def _gradients(
    engine: Engine, shapes: Shapes, ranks_per_node: int, gradient_bytes: int
) -> Iterator[Exchange]:
    num_bytes, units = float(gradient_bytes * shapes.trained_numel), _units(shapes)
    of_root = float(gradient_bytes * shapes.rest_trained_numel)
    everyone, every = _everyone(engine, ranks_per_node), engine.stage >= 2
    if engine.backend == "deepspeed" and engine.stage < 3:
        beside = engine.overlap_comm and not engine.keeps_gradients_whole
        buckets = ceil(shapes.trained_numel / engine.summed_bucket)
        yield Exchange(
            "gradients", "all-reduce", num_bytes, everyone, buckets, every, "backward" if beside else None
        )
        return
    if engine.stage == 0:
        yield Exchange("gradients", "all-reduce", num_bytes, everyone, units, False, "backward", of_root)
        return
    group = _neighbours(engine.group, ranks_per_node)
    in_units = engine.backend == "fsdp"
    pieces = units if in_units else ceil(shapes.trained_numel / engine.summed_bucket)
    behind: Pass | None = "backward" if in_units or engine.overlap_comm is not False else None
    last = of_root if in_units else num_bytes / pieces
    yield Exchange("gradients", "reduce-scatter", num_bytes, group, pieces, every, behind, last)
    if engine.group < engine.ranks:
        replicas, cut = _replicas(engine, ranks_per_node), engine.group
        part, last = num_bytes / cut, last / cut
        yield Exchange("gradients", "all-reduce", part, replicas, pieces, False, behind, last)


def _weights(engine: Engine, shapes: Shapes, ranks_per_node: int) -> Iterator[Exchange]:
    if engine.stage == 0:
        return
    group, units = _neighbours(engine.group, ranks_per_node), _units(shapes)
    whole, root = (float(engine.compute_bytes * numel) for numel in (shapes.numel, shapes.rest_numel))
    if engine.stage == 3:
        near = group if engine.second_group is None else _neighbours(engine.second_group, ranks_per_node)
        yield Exchange("weights", "all-gather", whole, group, units, True, "forward", root)
        yield Exchange("weights", "all-gather", whole, near, units, True, "backward", root)
    elif engine.backend == "fsdp":
        yield Exchange("weights", "all-gather", whole, group, units, False, "forward", root)
    else:
        trained = float(engine.compute_bytes * shapes.trained_numel)
        yield Exchange("weights", "all-gather", trained, group)


def _norms(engine: Engine, shapes: Shapes, ranks_per_node: int) -> Iterator[Exchange]:
    """Small ones, which take their hops and little else."""
    yield Exchange("norms", "all-reduce", _LOSSES * _FP64, _everyone(engine, ranks_per_node))
    group = _neighbours(engine.group, ranks_per_node)
    if group.ranks > 1:
        yield Exchange("norms", "all-reduce", _FP64, group)
        yield Exchange("norms", "all-reduce", 2 * _FP64 * len(shapes.trained), group)
