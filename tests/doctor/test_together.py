"""What ranks find out together: two real ranks that see different things, and how it is judged."""

import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from pretrain.doctor import links, together
from pretrain.doctor.finding import Finding
from pretrain.doctor.here import Here
from pretrain.doctor.links import Link
from pretrain.doctor.meeting import Meeting
from pretrain.doctor.together import Who
from pretrain.faults.tiny import write_tiny_store
from pretrain.placement import Placement
from tests.command.runs import STORE
from tests.doctor.heres import make_here, only
from tests.worlds import run_ranks

AHEAD_SECONDS = 7.5
Ask = Callable[[Here, Meeting], list[Finding]]


def _clock_ahead() -> float:
    return time.time() + AHEAD_SECONDS


def _two_ranks(folder: Path, is_alike: bool) -> dict[str, list[Finding]]:
    """Rank 1 has another folder, store, version and time, unless all is alike."""
    rank = dist.get_rank()
    differs = rank == 1 and not is_alike
    output = folder / "elsewhere" / "run" if differs else folder / "run"
    here = make_here(
        output,
        place=Placement(rank, 0, 2, 1),
        store=folder / "other" if differs else STORE,
        seconds=3.0,
        clock=_clock_ahead if differs else time.time,
    )
    store = dist.distributed_c10d._get_default_store()
    meeting = Meeting(Placement(rank, 0, 2, 1), 20.0, dist.PrefixStore("together", store))
    own = together.own_versions() | ({"torch": "2.12.0"} if differs else {})
    asked: dict[str, Ask] = {
        "versions": lambda here, meeting: together.compare_versions(here, meeting, own),
        "clocks": together.compare_clocks,
        "folders": together.compare_folders,
        "stores": together.compare_stores,
    }
    return {name: ask(here, meeting) for name, ask in asked.items()}


def test_two_ranks_that_are_alike(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    first, second = run_ranks(_two_ranks, 2, tmp_path, True)
    only(first["versions"], "ok", "all ranks have the same versions")
    only(first["clocks"], "ok", "clocks differ by")
    only(first["folders"], "ok", "every machine sees")
    only(first["stores"], "ok", "every machine has the same store")
    assert second["folders"] == []
    assert list((tmp_path / "run").iterdir()) == []


def test_two_ranks_that_differ_in_everything(tmp_path: Path) -> None:
    """Another folder of the same kind under the same levels, as a disk that is each machine's own."""
    for name in ("run", "elsewhere/run"):
        (tmp_path / name).mkdir(parents=True)
    write_tiny_store(tmp_path / "other", 20)
    first, second = run_ranks(_two_ranks, 2, tmp_path, False)
    torch_version = together.own_versions()["torch"]
    only(
        first["versions"],
        *(
            "failed",
            f"torch is {torch_version} on rank 0 and 2.12.0 on rank 1, expected the same",
            "install the same",
        ),
    )
    clocks = only(first["clocks"], "warning", "rank 1 by 7.", "ahead of rank 0", "by NTP")
    assert "expected 2 s at most" in clocks.found
    assert first["folders"][0].verdict == "ok"
    only(
        second["folders"],
        "failed",
        "elsewhere/run is another folder",
        "found nothing for 1.5 s",
        "all machines share",
    )
    only(first["stores"], "failed", "fingerprint of the store is", "on rank 0 and", "copy the store")
    assert [each for name in ("run", "elsewhere/run") for each in (tmp_path / name).iterdir()] == []


def test_clocks_that_are_behind_and_ahead() -> None:
    only(together.judged_clocks({0: 0.0, 1: -3.2, 2: 1.9}, 0.1), "warning", "rank 1 by 3.2 s behind rank 0")
    only(together.judged_clocks({0: 0.0, 1: 9.0}, 8.0), "ok")  # not to be told apart from a slow answer


def test_places_that_two_ranks_share() -> None:
    whos = {0: Who("n1", "n1", 0, 2), 1: Who("n1", "n1", 0, 2), 2: Who("n2", "n2", 0, 1)}
    only(
        together.compare_places(whos),
        "failed",
        "n1 has ranks 0-1 with the local ranks [0, 0]",
        "expected [0, 1]",
    )
    whos[1] = Who("n1", "n1", 1, 2)
    only(together.compare_places(whos), "ok", "3 rank(s) on 2 machine(s)")


def test_a_machine_whose_name_is_not_known() -> None:
    whos = {0: Who("127.0.0.1", "a", 0, 1), 1: Who("no-such-host.invalid", "b", 0, 1)}
    only(together.resolve_names(whos), "warning", "cannot resolve no-such-host.invalid, 1 of 2", "/etc/hosts")
    only(together.resolve_names({0: whos[0]}), "ok")


def _links() -> list[Link]:
    return links.measured_links(dist.get_rank(), 4, dict.fromkeys(range(4), "n1"), torch.device("cpu"))


def test_each_link_is_measured_once_by_its_lower_rank() -> None:
    found = run_ranks(_links, 4)
    assert [[each.ranks for each in of_rank] for of_rank in found] == [[(0, 1)], [(1, 2)], [(2, 3)], []]
    assert all(each.rate > 1e6 and each.is_within_machine for of_rank in found for each in of_rank)


def test_a_link_that_is_slower_than_others_of_its_kind() -> None:
    within = [Link((rank, rank + 1), True, 9e9) for rank in (0, 2, 4)]
    between = [Link((1, 2), False, 3e9), Link((3, 4), False, 0.9e9), Link((5, 6), False, 2.9e9)]
    only(
        links.judged_links(within + between),
        "warning",
        "ranks 3 and 4 exchange 0.90 GB/s, expected about the 2.90",
    )
    assert links.judged_links(within + between[:2]) == []  # of two, which is the slow one?
