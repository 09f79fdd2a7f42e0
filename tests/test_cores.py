"""Cores shared out among the ranks of a machine."""

import os
import threading
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from pretrain import cores
from pretrain.placement import Placement
from tests.worlds import run_ranks

FOUR, EIGHT = frozenset(range(4)), frozenset(range(8))


@pytest.fixture
def topology(tmp_path: Path) -> Path:
    """Two sockets of two cores with two threads each, numbered as Linux does: 0 to 3, then their second threads."""
    for cpu in range(8):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "physical_package_id").write_text(f"{cpu % 4 // 2}\n")
        (folder / "core_id").write_text(f"{cpu % 2}\n")
    return tmp_path


def test_parts_are_of_one_socket_and_of_whole_cores(topology: Path) -> None:
    two = [cores.part_of([EIGHT] * 2, rank, topology) for rank in range(2)]
    assert two == [frozenset({0, 4, 1, 5}), frozenset({2, 6, 3, 7})]
    four = [cores.part_of([EIGHT] * 4, rank, topology) for rank in range(4)]
    assert four == [frozenset({rank, rank + 4}) for rank in range(4)]


def test_without_a_topology_neighbours_by_number(tmp_path: Path) -> None:
    assert [cores.part_of([FOUR] * 3, rank, tmp_path) for rank in range(3)] == [
        frozenset({rank}) for rank in range(3)
    ]


def test_who_is_bound_already_keeps_what_it_has() -> None:
    assert cores.part_of([frozenset({0, 1}), frozenset({2, 3})], 1) == frozenset({2, 3})
    assert cores.part_of([FOUR], 0) == FOUR


@pytest.mark.parametrize("sets", [[FOUR] * 5, [FOUR, frozenset({0, 1})]])
def test_else_the_system_decides(sets: list[frozenset[int]]) -> None:
    assert cores.part_of(sets, 0) is None


def bound(own_cores: list[set[int]], threads_said: bool) -> tuple[set[int], set[int], int]:
    """On a rank: what it, and a thread that it had before, may use; its threads of torch."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    os.sched_setaffinity(0, own_cores[rank])
    os.environ.pop("OMP_NUM_THREADS", None)
    if threads_said:
        os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(3)
    end, found = threading.Event(), list[set[int]]()

    def look() -> None:
        end.wait()
        found.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=look)
    thread.start()
    cores.share(Placement(rank, rank, ranks, ranks), torch.device("cpu"))
    end.set()
    thread.join()
    return os.sched_getaffinity(0), found[0], torch.get_num_threads()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_ranks_of_a_machine_part_its_cores() -> None:
    first, second = sorted(os.sched_getaffinity(0))[:2]
    both = {first, second}
    parted = run_ranks(bound, 2, [both, both], False)
    assert parted == [({first}, {first}, 3), ({second}, {second}, 3)]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
@pytest.mark.parametrize("threads_said", [False, True])
def test_a_rank_that_is_bound_has_as_many_threads_as_cores(threads_said: bool) -> None:
    own = [{core} for core in sorted(os.sched_getaffinity(0))[:2]]
    found = run_ranks(bound, 2, own, threads_said)
    assert found == [(each, each, 3 if threads_said else 1) for each in own]
