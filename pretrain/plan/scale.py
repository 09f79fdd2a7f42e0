"""How long a step takes on so many GPUs, on paper: what computes, what is exchanged, and what of that is waited for.

1. forward and backward: the step's FLOPs, those of padding and of recomputed layers too, cut evenly, at the rate that
   one GPU achieves; a third of what is not recomputed is forward;
2. exchanges (`exchanges`), by NCCL's cost model (`collectives`). Of what goes in p pieces behind a pass all but one may
   hide behind (p - 1) / p of it: the first piece that a pass needs, or the last that it leaves, has nothing beside it,
   and while a pass computes its first or last part nothing is there to be hidden. Exchanges behind the same pass share
   the links, and what the pass cannot hide is waited for;
3. the optimizer: the bytes of master weights, gradients and moments that a rank reads and writes by its rule
   (`optimizer_step`), at the rate of its memory;
4. a checkpoint: training waits for the copy to host memory, and for an earlier save that is not over; it is written in
   the background, at once by all ranks that hold a part of it: one at stage 0, of groups those of one replica.

Left out: data loading and stragglers, which are the ranks' waiting for the slowest of them; evaluation; offloading;
a network that other jobs use; that NCCL's kernels take processors from the passes that they run beside.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import ceil

from pretrain.plan.collectives import Network
from pretrain.plan.exchanges import FP32, Exchange, Pass, What, exchanges
from pretrain.plan.memory import Engine
from pretrain.plan.parameters import Shapes
from pretrain.plan.shards import held_numel

_FORWARD = 1 / 3  # of the FLOPs of forward and backward
_HALVINGS = 200


@dataclass(frozen=True)
class Machine:
    """GPUs in nodes, of which each has up to `ranks_per_node`. Bytes per second: of a GPU's memory as the optimizer
    achieves it, of a GPU's copies to its host, and of the file system, to which ranks write together."""

    network: Network
    ranks_per_node: int
    memory_bytes_per_second: float
    copy_bytes_per_second: float
    disk_bytes_per_second: float

    def nodes(self, ranks: int) -> int:
        """As few as have room for so many."""
        return ceil(ranks / self.ranks_per_node)


@dataclass(frozen=True)
class Job:
    """What is trained, and how. `optimizer_bytes`: that a step reads and writes of a weight; `gradient_bytes`: of an
    element, where gradients are summed; `micro_batch`: rows;
    `recomputed`: the share of the layers whose forward pass the backward pass computes again."""

    engine: Engine
    shapes: Shapes
    micro_batch: int
    optimizer_bytes: int
    gradient_bytes: int = FP32
    recomputed: float = 0.0

    def on(self, ranks: int) -> "Job":
        """The same with another number of ranks; groups larger than that are all ranks."""
        group, second = (
            each if each and each < ranks else None
            for each in (self.engine.shard_group, self.engine.second_group)
        )
        return replace(self, engine=replace(self.engine, ranks=ranks, shard_group=group, second_group=second))

    def at_stage(self, stage: int) -> "Job":
        """The same under another ZeRO stage."""
        return replace(self, engine=replace(self.engine, stage=stage))


@dataclass(frozen=True)
class Work:
    """One optimizer step of all ranks together. `flops`: of forward and backward, padding included, recomputation not;
    `layer_flops`: those of the layers among them."""

    rows: int
    flops: float
    layer_flops: float = 0.0

    def computed(self, recomputed: float) -> float:
        """FLOPs with those of the layers that are computed again, a share of them."""
        return self.flops + _FORWARD * recomputed * self.layer_flops


@dataclass(frozen=True)
class Exchanged:
    """Seconds of a step: of the exchange alone, and what of them is waited for."""

    seconds: float
    exposed: float


@dataclass(frozen=True)
class StepCost:
    """Seconds of one step on so many ranks."""

    ranks: int
    nodes: int
    stage: int
    accumulation: int
    compute: float
    optimizer: float
    gradients: Exchanged
    weights: Exchanged
    norms: Exchanged

    @property
    def exposed(self) -> float:
        """What is waited for of all exchanges."""
        return self.gradients.exposed + self.weights.exposed + self.norms.exposed

    @property
    def seconds(self) -> float:
        return self.compute + self.optimizer + self.exposed


@dataclass(frozen=True)
class SaveCost:
    """Seconds of one checkpoint of `saves`: the copy that training waits for, the writing beside it, and the training
    until the next one, or until this one where it is alone."""

    copy: float
    write: float
    interval: float
    saves: int = 2

    @property
    def waited(self) -> float:
        """For an earlier one that is not over."""
        return max(0.0, self.write - self.interval) if self.saves > 1 else 0.0

    @property
    def exposed(self) -> float:
        """What training waits for where there was an earlier one."""
        return self.copy + self.waited

    @property
    def total(self) -> float:
        """Of all of them: the first waits for none, and the last is waited for to its end."""
        return self.saves * self.copy + (self.saves - 1) * self.waited + self.write

    @property
    def share(self) -> float:
        """Of the run's time."""
        return self.exposed / (self.interval + self.exposed)


def step_cost(job: Job, machine: Machine, work: Work, flops_per_second: float) -> StepCost:
    """Of `work` on the ranks of the job, of which each computes so many FLOPs a second in forward and backward."""
    ranks = job.engine.ranks
    accumulation = max(1, ceil(work.rows / (job.micro_batch * ranks)))
    computed = work.computed(job.recomputed)
    compute = computed / ranks / flops_per_second
    forward = compute / accumulation * _FORWARD * work.flops / computed
    windows: dict[Pass, float] = {"forward": forward, "backward": compute / accumulation - forward}
    nodes = machine.nodes(ranks)
    sent = exchanges(job.engine, job.shapes, ranks // nodes, job.gradient_bytes)
    found = _waited(sent, machine.network, windows, accumulation)
    return StepCost(
        ranks=ranks,
        nodes=nodes,
        stage=job.engine.stage,
        accumulation=accumulation,
        compute=compute,
        optimizer=_optimizer_seconds(job, machine),
        gradients=found["gradients"],
        weights=found["weights"],
        norms=found["norms"],
    )


def obstacle(job: Job, machine: Machine, rows: int) -> str | None:
    """What is in the way of steps of so many rows on the job's ranks, or of knowing how long they take; None: nothing.

    Ranks and groups of them have to lie on nodes alike.
    """
    engine, ranks = job.engine, job.engine.ranks
    nodes = machine.nodes(ranks)
    if rows % (job.micro_batch * ranks):
        return f"{rows} rows are no whole number of micro-batches of {job.micro_batch} rows on each of {ranks} rank(s)"
    if ranks % nodes:
        return (
            f"{ranks} ranks are not as many on each of {nodes} nodes (up to {machine.ranks_per_node} on one)"
        )
    per_node = ranks // nodes
    for group in (engine.shard_group, engine.second_group):
        if group is not None and ranks % group:
            return f"{ranks} ranks are no whole number of groups of {group}"
        if group is not None and per_node % group and group % per_node:
            return f"groups of {group} ranks end in the midst of nodes of {per_node}"
    return None


def save_cost(
    rank_bytes: int, whole_bytes: int, machine: Machine, interval: float, saves: int = 2
) -> SaveCost:
    """Of one of `saves` checkpoints of which the fullest rank copies `rank_bytes`, `interval` seconds after another."""
    return SaveCost(
        copy=rank_bytes / machine.copy_bytes_per_second,
        write=whole_bytes / machine.disk_bytes_per_second,
        interval=interval,
        saves=saves,
    )


def achieved_flops(job: Job, machine: Machine, work: Work, seconds: float) -> float | None:
    """FLOPs per second of one GPU in forward and backward, where a step of `work` took `seconds` on the job's ranks.

    The exchanges and the optimizer's step that the model finds there are taken off. None where they alone take longer.
    """

    computed = work.computed(job.recomputed) / job.engine.ranks

    def modelled(compute: float) -> float:
        return step_cost(job, machine, work, computed / compute).seconds

    low, high = 0.0, seconds
    for _ in range(
        _HALVINGS
    ):  # the more is computed the longer it takes: overlap hides no more than was added
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if modelled(middle) < seconds else (low, middle)
    # Where even next to no computing takes longer than was measured, the search ends at 0.
    return None if modelled(high) > seconds * (1 + 1e-9) else computed / high


def _optimizer_seconds(job: Job, machine: Machine) -> float:
    """Of what a rank holds."""
    engine = job.engine
    held = held_numel(engine.backend, engine.stage, job.shapes.trained, engine.group)
    return held * job.optimizer_bytes / machine.memory_bytes_per_second


@dataclass(frozen=True)
class _Timed:
    """An exchange, and its seconds at one time: in all, and of the pieces that a pass may hide."""

    exchange: Exchange
    alone: float
    hideable: float

    @classmethod
    def of(cls, exchange: Exchange, network: Network) -> "_Timed":
        others = exchange.others_seconds(network) if exchange.behind else 0.0
        return cls(exchange, exchange.seconds(network), others)


def _waited(
    sent: Iterable[Exchange], network: Network, windows: dict[Pass, float], accumulation: int
) -> dict[What, Exchanged]:
    """Over a step, by what is exchanged. `windows`: seconds of a micro-batch's passes."""
    each = [_Timed.of(exchange, network) for exchange in sent]
    found: dict[What, Exchanged] = {}
    for what in ("gradients", "weights", "norms"):
        seconds = exposed = 0.0
        for timed in each:
            if timed.exchange.what != what:
                continue
            times = accumulation if timed.exchange.every_micro_batch else 1
            seconds += times * timed.alone
            behind = timed.exchange.behind
            if behind is None:
                exposed += times * timed.alone
            else:
                exposed += _behind(timed, each, windows[behind], accumulation)
        found[what] = Exchanged(seconds, exposed)
    return found


def _behind(timed: _Timed, each: list[_Timed], window: float, accumulation: int) -> float:
    """Seconds that a step waits for an exchange, beside the others behind the same pass, of `window` seconds.

    One pass of a step has them all: the first forward pass, or the last backward pass. The others have those of every
    micro-batch.
    """
    beside = [other for other in each if other.exchange.behind == timed.exchange.behind]
    regular = [other for other in beside if other.exchange.every_micro_batch]
    once = _share_waited(timed, beside, window)
    if not timed.exchange.every_micro_batch:
        return once
    return once + (accumulation - 1) * _share_waited(timed, regular, window)


def _share_waited(timed: _Timed, beside: list[_Timed], window: float) -> float:
    """The piece that nothing hides, and of what a pass cannot hide of the others, the part that is this exchange's."""
    pieces = min(other.exchange.pieces for other in beside)
    rest = sum(other.hideable for other in beside)
    over = max(0.0, rest - window * (1 - 1 / pieces))
    return timed.alone - timed.hideable + (over * timed.hideable / rest if rest else 0.0)
