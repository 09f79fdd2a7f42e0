"""Slices, views and norms against hand-made cases and float64."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from pretrain.kernels.blocks import CPU
from pretrain.sharding import ParameterInfo, Shard, ShardLayout, Slice, Sliced, SliceTable, accurate_norm
from tests.worlds import run_ranks

PARAMETERS = (ParameterInfo("a", (2, 3)), ParameterInfo("b", (4,)))


def layout_of(pieces: list[Slice], numel: int, group: dist.ProcessGroup | None = None) -> ShardLayout:
    return ShardLayout(PARAMETERS, (Shard(torch.arange(1.0, numel + 1), tuple(pieces)),), group=group)


def weights_of(layout: ShardLayout) -> Sliced:
    return Sliced(layout.table, [shard.tensor for shard in layout.shards])


def test_sizes_of_parameters_and_slices() -> None:
    assert [info.numel for info in PARAMETERS] == [6, 4]
    assert ParameterInfo("number", ()).numel == 1
    assert Slice(0, 2, 7, 3).end == 5


def test_views_are_the_slices_in_place() -> None:
    shard = Shard(torch.zeros(2, 5), (Slice(0, 0, 1, 3), Slice(1, 2, 6, 2)))
    for number, view in enumerate(shard.views(shard.tensor), start=1):
        view.fill_(number)
    assert shard.tensor.flatten().tolist() == [0, 1, 1, 1, 0, 0, 2, 2, 0, 0]
    layout = ShardLayout(PARAMETERS, (shard, Shard(torch.zeros(1), (Slice(1, 0, 0, 1),))))
    assert list(layout.all_slices()) == [(0, shard.slices[0]), (0, shard.slices[1]), (1, Slice(1, 0, 0, 1))]


def test_squares_are_added_by_parameter() -> None:
    """3-4-5 over two slices of one parameter, and padding that no slice names."""
    layout = layout_of([Slice(1, 0, 0, 1), Slice(1, 1, 1, 2), Slice(0, 0, 4, 2)], 6)
    values = Sliced(layout.table, [torch.tensor([3.0, 4.0, 0.0, torch.nan, 2.0, 2.0])])
    squares = layout.partial_squared_norms(values)
    assert squares.dtype == torch.float64
    assert squares.tolist() == pytest.approx([8.0, 25.0])
    assert float(layout.global_norm(values)) == pytest.approx(33.0**0.5)
    nothing = layout_of([], 1)
    assert nothing.partial_squared_norms(weights_of(nothing)).tolist() == [0.0, 0.0]
    assert layout.partial_squared_norms(Sliced(SliceTable(()), [])).tolist() == [0.0, 0.0]


def test_addresses_are_those_of_the_views() -> None:
    """Over two shards, one of them a matrix, with padding between and behind the slices."""
    shards = (
        Shard(torch.zeros(2, 5), (Slice(0, 0, 1, 3), Slice(1, 2, 6, 2))),
        Shard(torch.zeros(3), ()),
        Shard(torch.zeros(4), (Slice(1, 0, 2, 2),)),
    )
    values = weights_of(ShardLayout(PARAMETERS, shards))
    assert values.addresses(torch.float32, CPU).tolist() == [view.data_ptr() for view in values.views]
    assert values.table.owners.tolist() == [0, 1, 1]


@pytest.mark.parametrize("numel", [0, 1, 1023, 1024, 1025, 3_000_001])
def test_norm_keeps_its_digits(numel: int) -> None:
    piece = torch.rand(numel, generator=torch.Generator().manual_seed(numel)) * 1e-3
    assert float(accurate_norm(piece)) == pytest.approx(float(piece.double().norm()), rel=1e-7, abs=0.0)


def test_norm_does_not_show_the_cut() -> None:
    piece = torch.randn(1_000_003, generator=torch.Generator().manual_seed(1))
    parts = piece.split([700_001, 300_001, 1])
    shards = tuple(Shard(part, (Slice(0, 0, 0, len(part)),)) for part in parts)
    layout = ShardLayout(PARAMETERS, shards)
    cut = layout.global_norm(weights_of(layout))
    assert float(cut) == pytest.approx(float(accurate_norm(piece)), rel=1e-7)


def norms_of_rank() -> list[float]:
    """One parameter of ones in two halves; then the same whole on each rank."""
    shared = layout_of([Slice(0, 0, 0, 3)], 3, dist.group.WORLD)
    replicated = layout_of([Slice(0, 0, 0, 6)], 6)
    return [
        float(layout.global_norm(Sliced(layout.table, [torch.ones_like(layout.shards[0].tensor)])))
        for layout in (shared, replicated)
    ]


def test_ranks_add_up_and_replicas_do_not() -> None:
    for found in run_ranks(norms_of_rank, 2):
        assert found == pytest.approx([6.0**0.5, 6.0**0.5])


def test_the_group_exchanges_on_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offloaded shards lie on the CPU, where NCCL does not reach. `meta` stands for the GPU."""
    seen: list[torch.device] = []

    def exchange(table: torch.Tensor, group: object) -> None:
        seen.append(table.device)

    monkeypatch.setattr(dist, "get_world_size", lambda group: 2)
    monkeypatch.setattr(dist, "all_reduce", exchange)
    group: Any = object()
    here = replace(layout_of([], 1, group), group_device=torch.device("cpu"))
    assert here.sum_over_group(torch.ones(2)).tolist() == [1.0, 1.0]
    there = replace(here, group_device=torch.device("meta"))
    with pytest.raises(NotImplementedError, match="meta tensor; no data"):  # nothing comes back from there
        there.sum_over_group(torch.ones(2))
    assert [device.type for device in seen] == ["cpu", "meta"]


class _Doubling:
    """Stands for two ranks that hold the same."""

    def __call__(self, table: torch.Tensor, group: object) -> None:
        table *= 2


def test_what_was_exchanged_elsewhere_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "get_world_size", lambda group: 2)
    monkeypatch.setattr(dist, "all_reduce", _Doubling())
    moved = torch.Tensor.to

    def copied(self: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        return moved(self, *args, **options).clone()

    group: Any = object()
    layout = replace(layout_of([], 1, group), group_device=torch.device("cpu"))
    monkeypatch.setattr(torch.Tensor, "to", copied)
    table = torch.ones(3)
    assert layout.sum_over_group(table) is table
    assert table.tolist() == [2.0, 2.0, 2.0]
