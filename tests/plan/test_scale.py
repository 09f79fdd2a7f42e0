"""A step's time by hand: what is exchanged by engine and stage, what hides, limits, and the way back from a rate."""

from dataclasses import replace
from itertools import product

import pytest

from pretrain.backends.base import Precision
from pretrain.backends.carried import BackendName
from pretrain.plan.collectives import Group, Link, Network
from pretrain.plan.exchanges import exchanges
from pretrain.plan.memory import Engine
from pretrain.plan.parameters import Shapes
from pretrain.plan.scale import (
    Job,
    Machine,
    SaveCost,
    Work,
    achieved_flops,
    obstacle,
    save_cost,
    step_cost,
)
from pretrain.sharding import ParameterInfo

# Three layers of 30,000 elements and 38,000 in none: four pieces. Of two parameters one is trained, and of the
# elements in no layer 30,000.
SHAPES = Shapes(
    (ParameterInfo("a", (1000, 120)),), (ParameterInfo("b", (8000,)),), 3 * (30_000,), 38_000, 30_000
)
T, P = 120_000, 128_000
NETWORK = Network(Link(1e6, 0.0), Link(1e5, 0.0))
MACHINE = Machine(
    NETWORK, 4, memory_bytes_per_second=1e7, copy_bytes_per_second=1e6, disk_bytes_per_second=1e5
)
ENGINE = Engine("fsdp", 2, "bf16", ranks=8, num_moments=2, reduce_bucket=50_000)
STAGES = list(product(("deepspeed", "fsdp"), (0, 1, 2, 3)))
WORK = Work(rows=64, flops=6.4e9)


def job(
    backend: BackendName = "fsdp", stage: int = 2, ranks: int = 8, overlap_comm: bool | None = None
) -> Job:
    engine = replace(ENGINE, backend=backend, stage=stage, ranks=ranks, overlap_comm=overlap_comm)
    return Job(engine, SHAPES, 2, optimizer_bytes=44)


@pytest.mark.parametrize(
    ("backend", "stage", "expected"),
    [
        ("deepspeed", 0, [("gradients", "all-reduce", 4 * T, 1, False, None)]),
        (
            *("deepspeed", 1),
            [
                ("gradients", "all-reduce", 4 * T, 1, False, None),
                ("weights", "all-gather", 2 * T, 1, False, None),
            ],
        ),
        (
            *("deepspeed", 2),
            [
                ("gradients", "all-reduce", 4 * T, 3, True, None),
                ("weights", "all-gather", 2 * T, 1, False, None),
            ],
        ),
        ("fsdp", 0, [("gradients", "all-reduce", 4 * T, 4, False, "backward")]),
        (
            *("fsdp", 1),
            [
                ("gradients", "reduce-scatter", 4 * T, 4, False, "backward"),
                ("weights", "all-gather", 2 * P, 4, False, "forward"),
            ],
        ),
        (
            *("fsdp", 2),
            [
                ("gradients", "reduce-scatter", 4 * T, 4, True, "backward"),
                ("weights", "all-gather", 2 * P, 4, False, "forward"),
            ],
        ),
        (
            *("fsdp", 3),
            [
                ("gradients", "reduce-scatter", 4 * T, 4, True, "backward"),
                ("weights", "all-gather", 2 * P, 4, True, "forward"),
                ("weights", "all-gather", 2 * P, 4, True, "backward"),
            ],
        ),
    ],
)
def test_what_is_exchanged(backend: BackendName, stage: int, expected: list[tuple[object, ...]]) -> None:
    found = exchanges(job(backend, stage).engine, SHAPES, 4)
    large = [
        (each.what, each.operation, each.num_bytes, each.pieces, each.every_micro_batch, each.behind)
        for each in found
        if each.what != "norms"
    ]
    assert large == expected
    assert all(each.group == Group(8, 2) for each in found)


def test_deepspeed_sums_beside_the_backward_pass_where_it_is_told() -> None:
    def behind(stage: int, overlap_comm: bool | None, precision: Precision = "fp16") -> str | None:
        engine = replace(job("deepspeed", stage, overlap_comm=overlap_comm).engine, precision=precision)
        return exchanges(engine, SHAPES, 4)[0].behind

    assert [behind(stage, True) for stage in range(4)] == [None, *3 * ["backward"]]
    assert [behind(stage, None) for stage in range(4)] == [*3 * [None], "backward"]
    assert behind(1, True, "bf16") is None and behind(3, False) is None


def test_groups_and_their_replicas() -> None:
    """8 ranks in groups of 2 on nodes of 4: replicas are two a node; a secondary partition stays in its node."""
    sent = exchanges(replace(job().engine, shard_group=2), SHAPES, 4)
    scattered, between, gathered = sent[:3]
    assert scattered.group == gathered.group == Group(2, 1)
    assert (between.operation, between.num_bytes, between.every_micro_batch) == ("all-reduce", 2 * T, False)
    assert between.group == Group(4, 2)
    second = exchanges(replace(job(stage=3).engine, second_group=4), SHAPES, 4)
    assert [each.group for each in second if each.what == "weights"] == [Group(8, 2), Group(4, 1)]


def test_a_step_of_fsdp_2_by_hand() -> None:
    """4 micro-batches of 0.25 s, two thirds of it backward; 4 links of 1e5 leave a node."""
    cost = step_cost(job(), MACHINE, WORK, flops_per_second=8e8)
    start, rate = 8.4e-6, 4e5
    assert (cost.accumulation, cost.nodes) == (4, 2)
    assert cost.compute == pytest.approx(1.0)
    scattered = 4 * start + 4 * T * 7 / 8 / rate  # 1.05 s, three quarters beside 0.25 * 2/3 * 3/4 = 0.125 s
    assert cost.gradients.seconds == pytest.approx(4 * scattered)
    assert cost.gradients.exposed == pytest.approx(4 * (scattered - 0.125))
    gathered = 4 * start + 2 * P * 7 / 8 / rate  # once, 45/64 of it beside 0.25 * 1/3 * 3/4 = 0.0625 s
    assert cost.weights.exposed == pytest.approx(gathered - 0.0625)
    assert cost.optimizer == pytest.approx(15_000 * 44 / 1e7)
    assert cost.seconds == pytest.approx(1 + cost.optimizer + cost.exposed)


def test_what_hides_leaves_the_root() -> None:
    """Computing that takes for ever hides the layers, and not what lies in none: of 120,000 gradients 30,000, of
    128,000 weights 38,000; of three equal buckets it leaves one."""
    cost = step_cost(job(), MACHINE, WORK, flops_per_second=1e3)
    start, rate = 8.4e-6, 4e5
    assert cost.gradients.exposed == pytest.approx(4 * (start + 4 * 30_000 * 7 / 8 / rate))
    assert cost.weights.exposed == pytest.approx(start + 2 * 38_000 * 7 / 8 / rate)
    buckets = step_cost(job("deepspeed", 2, overlap_comm=True), MACHINE, WORK, 1e3).gradients
    assert buckets.exposed == pytest.approx(buckets.seconds / 3)


def test_the_root_of_groups_and_replicas() -> None:
    """A quarter of the gradients, and 19/64 of the weights, whoever exchanges them."""
    for stage in (1, 2, 3):
        engine = replace(job(stage=stage).engine, shard_group=2)
        for each in exchanges(engine, SHAPES, 4):
            assert each.unhidden_bytes is None or each.unhidden_bytes / each.num_bytes == (
                1 / 4 if each.what == "gradients" else 19 / 64
            )


def test_recomputed_layers_are_computed_once_more() -> None:
    """A forward pass is a third: of 6.4e9 FLOPs with 4.8e9 in the layers, all of these again are 1.6e9 more, beside
    which gradients hide and weights do not."""
    work = replace(WORK, layer_flops=4.8e9)
    costs = {
        share: step_cost(replace(job(), recomputed=share), MACHINE, work, 8e8) for share in (0.0, 0.5, 1.0)
    }
    assert [cost.compute for cost in costs.values()] == pytest.approx([1.0, 1.125, 1.25])
    none, half, full = costs.values()
    assert none == step_cost(job(), MACHINE, WORK, 8e8)
    assert full.weights == half.weights == none.weights
    # Four micro-batches, of whose backward passes three quarters hide something.
    assert none.gradients.exposed - full.gradients.exposed == pytest.approx(0.25 * 0.75)
    seconds = step_cost(replace(job(), recomputed=1.0), MACHINE, work, 8e8).seconds
    assert achieved_flops(replace(job(), recomputed=1.0), MACHINE, work, seconds) == pytest.approx(8e8)


def test_exchanges_behind_one_pass_share_the_links() -> None:
    """Stage 3: gradients and weights are waited for as long together as if one exchange took as long as both."""
    cost = step_cost(job(stage=3), MACHINE, WORK, flops_per_second=8e8)
    both = cost.gradients.seconds + cost.weights.seconds
    assert cost.gradients.exposed + cost.weights.exposed == pytest.approx(both - 4 * 0.25 * 0.75)


@pytest.mark.parametrize(("backend", "stage"), STAGES)
@pytest.mark.parametrize("pace", [1e3, 1e8, 1e12])
def test_what_is_waited_for_is_between_nothing_and_all(backend: BackendName, stage: int, pace: float) -> None:
    for overlap_comm in (None, True):
        cost = step_cost(job(backend, stage, overlap_comm=overlap_comm), MACHINE, WORK, pace)
        for each in (cost.gradients, cost.weights, cost.norms):
            assert 0 <= each.exposed <= each.seconds * (1 + 1e-12)


@pytest.mark.parametrize(("backend", "stage"), STAGES)
def test_limits(backend: BackendName, stage: int) -> None:
    """One GPU exchanges nothing; links without end cost what starting costs; a step is never faster than computing."""
    alone = step_cost(job(backend, stage, ranks=1), MACHINE, WORK, 1e8)
    assert alone.exposed == 0 and alone.seconds == alone.compute + alone.optimizer
    endless = replace(MACHINE, network=Network(Link(1e30, 0.0), Link(1e30, 0.0)))
    many = step_cost(job(backend, stage), endless, WORK, 1e8)
    assert many.exposed < 1e-3 and many.compute == alone.compute / 8


@pytest.mark.parametrize("backend", ["deepspeed", "fsdp"])
def test_higher_stages_exchange_no_less(backend: BackendName) -> None:
    def num_bytes(stage: int) -> float:
        sent = exchanges(job(backend, stage).engine, SHAPES, 4)
        return sum(
            (2 if each.operation == "all-reduce" else 1)
            * each.num_bytes
            * (4 if each.every_micro_batch else 1)
            for each in sent
            if each.what == "weights" or backend == "fsdp"
        )

    found = [num_bytes(stage) for stage in (1, 2, 3)]
    assert found == sorted(found)


@pytest.mark.parametrize(("backend", "stage"), STAGES)
@pytest.mark.parametrize("ranks", [1, 8])
def test_the_pace_behind_a_measured_step(backend: BackendName, stage: int, ranks: int) -> None:
    measured = job(backend, stage, ranks)
    seconds = step_cost(measured, MACHINE, WORK, 3e8).seconds
    assert achieved_flops(measured, MACHINE, WORK, seconds) == pytest.approx(3e8)


def test_a_rate_faster_than_the_links() -> None:
    cost = step_cost(job("deepspeed", 1), MACHINE, WORK, 1e30)
    assert achieved_flops(job("deepspeed", 1), MACHINE, WORK, 0.9 * cost.seconds) is None


def test_a_save() -> None:
    """Training waits for the copy, and for an earlier save that takes longer than there is until the next."""
    found = save_cost(rank_bytes=200_000, whole_bytes=800_000, machine=MACHINE, interval=10.0)
    assert found == SaveCost(copy=0.2, write=8.0, interval=10.0)
    assert found.exposed == 0.2
    assert found.share == pytest.approx(0.2 / 10.2)
    assert replace(found, interval=5.0).exposed == pytest.approx(3.2)
    # Three: each is copied, the second and the third wait for one before, and the last is waited for.
    assert replace(found, interval=5.0, saves=3).total == pytest.approx(3 * 0.2 + 2 * 3.0 + 8.0)
    alone = replace(found, interval=5.0, saves=1)
    assert alone.exposed == 0.2 and alone.total == pytest.approx(8.2)


def test_larger_groups_than_ranks() -> None:
    large = replace(job(), engine=replace(ENGINE, shard_group=4, second_group=4))
    small = large.on(2)
    assert (small.engine.shard_group, small.engine.second_group, small.engine.ranks) == (None, None, 2)
    assert large.on(16).engine.shard_group == large.on(16).engine.second_group == 4


@pytest.mark.parametrize(
    ("ranks", "group", "second", "problem"),
    [
        (8, None, None, None),
        (8, 2, None, None),
        (6, None, None, None),  # three on each of two nodes
        (6, 3, None, None),
        (16, 8, 4, None),  # two nodes, and one
        (5, None, None, "5 ranks are not as many on each of 2 nodes"),
        (6, 2, None, "groups of 2 ranks end in the midst of nodes of 3"),
        (12, 8, None, "12 ranks are no whole number of groups of 8"),
        (12, None, 3, "groups of 3 ranks end in the midst of nodes of 4"),
    ],
)
def test_ranks_and_groups_lie_on_nodes_alike(
    ranks: int, group: int | None, second: int | None, problem: str | None
) -> None:
    engine = replace(ENGINE, shard_group=group, second_group=second)
    found = obstacle(replace(job(), engine=engine).on(ranks), MACHINE, rows=2 * ranks)
    assert found is problem is None or (found is not None and found.startswith(str(problem)))


def test_rows_that_ranks_cannot_share() -> None:
    found = obstacle(job(), MACHINE, rows=24)
    assert found == "24 rows are no whole number of micro-batches of 2 rows on each of 8 rank(s)"


def test_nodes_that_are_not_full_have_fewer_links() -> None:
    """Six ranks are three on each of two nodes with room for four: three links leave a node."""
    cost = step_cost(job(ranks=6), MACHINE, replace(WORK, rows=48), flops_per_second=8e8)
    one = cost.gradients.seconds / cost.accumulation
    assert one == pytest.approx(4 * T * 5 / 6 / 3e5, rel=1e-3) and cost.nodes == 2
