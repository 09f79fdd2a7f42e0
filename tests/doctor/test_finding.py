"""Findings of many ranks in few lines."""

import pytest

from pretrain.doctor.finding import Finding, Located, failed, folded, named_ranks, ok, warning


def located(rank: int, finding: Finding, check: str = "port", section: str = "b") -> Located:
    return Located(section, check, rank, f"n{rank // 2}", finding)


@pytest.mark.parametrize(
    ("ranks", "said"), [([3], "rank 3"), ([1, 0], "ranks 0-1"), ([0, 1, 2, 5, 7, 8], "ranks 0-2, 5, 7-8")]
)
def test_ranks_are_named_by_runs(ranks: list[int], said: str) -> None:
    assert named_ranks(ranks) == said


def test_equal_ones_are_one_line_and_one_alone_is_named() -> None:
    bad = failed("taken", "free it")
    lines = folded([located(rank, bad if rank == 3 else ok("free")) for rank in range(4)], ["b"])
    assert [(line.finding, line.who(4)) for line in lines] == [
        (ok("free"), "ranks 0-2 on n0, n1"),
        (bad, "rank 3 on n1"),
    ]


def test_what_is_well_by_other_figures_is_one_line_and_what_is_not_is_several() -> None:
    well = folded([located(rank, ok(f"{rank} free")) for rank in range(8)], ["b"])
    assert [(line.finding.found, line.ranks, line.others) for line in well] == [("0 free", (0,), 7)]
    bad = folded([located(rank, warning(f"{rank} free", "free more")) for rank in range(3)], ["b"])
    assert [line.ranks for line in bad] == [(0,), (1,), (2,)]


def test_sections_come_in_their_order_and_many_machines_are_counted() -> None:
    lines = folded(
        [located(rank, ok("x")) for rank in range(12)] + [located(0, ok("y"), section="a")], ["a", "b"]
    )
    assert [(line.section, line.who(12)) for line in lines] == [
        ("a", "rank 0 on n0"),
        ("b", "ranks 0-11 on 6 machines"),
    ]
    assert lines[0].who(1) == ""
