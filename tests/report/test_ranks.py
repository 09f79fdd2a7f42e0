"""The section about ranks: its figures are those of the file, and nothing in the file becomes more than text."""

from pathlib import Path
from statistics import median
from typing import Any

import pytest

from pretrain.report import write_report
from tests.report.reading import Reading, read
from tests.report.runs import of_ranks, write_lines, write_run

TABLE = "The ranks beside each other"
HOSTS = {"step": 0, "ranks": 4, "hosts": [["n01", 0, 1], ["n02", 2, 3]]}


def page_of(folder: Path, *lines: Any) -> Reading:
    run = write_run(folder / "one", 100)
    if lines:
        write_lines(run / "ranks.jsonl", iter(lines))
    write_report([run], folder / "page.html")
    return read(folder / "page.html")


def test_the_slowest_rank_is_named_with_its_host(tmp_path: Path) -> None:
    usual = [of_ranks(step) for step in range(10, 100, 10)]
    odd = of_ranks(100, slowest_rank=0, to_median=1.2, data_wait=0.5, peak_bytes=[3 << 30] * 4)
    page = page_of(tmp_path, HOSTS, *usual, odd)
    found = page.column(TABLE)
    assert found["ranks, and hosts"] == "4, 2"
    assert found["slowest rank"] == "rank 2 on n02, in 90% of 10 intervals"
    assert found["its own seconds a step, when it last was"] == "0.25"
    assert found["slowest over median rank's own time, median"] == "2.5"
    assert found["the same, last"] == "1.2 (step 100)"
    waits = [line["data_wait"] for line in [*usual, odd]]
    assert found["data wait, median of the largest shares"] == f"{median(waits):.1%}"
    assert found["data wait, highest"] == "50.0% (step 100)"
    assert found["most memory of a rank"] == "3 GiB"
    assert [title for title in page.headings if title in ("Ranks", "Data wait", "Slowest rank")] == [
        *("Ranks", "Data wait", "Slowest rank")
    ]
    curve = page.figures["charts"]["ranks-to-median"]["series"][0]
    assert curve["x"]["step"] == list(range(10, 101, 10))
    assert curve["low"] == [2.5] * 9 + [1.2]
    assert curve["x"]["tokens"] == [500 * step for step in range(10, 101, 10)]


def test_one_rank_is_nobody_s_slowest(tmp_path: Path) -> None:
    """Intervals of one rank do not count among those in which a rank was the slowest."""
    alone = {"own_seconds": [0.2], "data_wait_seconds": [0.01], "peak_bytes": [1 << 30]}
    alone |= {"slowest_rank": None, "to_median": None}
    one = {"step": 0, "ranks": 1, "hosts": [["n01", 0, 0]]}
    page = page_of(tmp_path / "a", one, *(of_ranks(step, **alone) for step in (10, 20)))
    assert list(page.column(TABLE)) == [
        *("ranks, and hosts", "data wait, median of the largest shares", "data wait, highest"),
        "most memory of a rank",
    ]
    assert "ranks-to-median" not in page.figures["charts"]
    later = [of_ranks(step) for step in (30, 40)]
    page = page_of(tmp_path / "b", one, of_ranks(10, **alone), of_ranks(20, **alone), HOSTS, *later)
    assert page.column(TABLE)["slowest rank"] == "rank 2 on n02, in 100% of 2 intervals"


def test_a_large_world_and_one_without_own_seconds(tmp_path: Path) -> None:
    """As the writer writes more than 64 ranks; and where the kernel counts no run-queue waits."""
    spread = {"min": 0.1, "median": 0.2, "max": 0.7}
    large = of_ranks(
        10, slowest_rank=900, own_seconds=spread, peak_bytes={"min": 1, "median": 2, "max": 4 << 30}
    )
    hosts = {"step": 0, "ranks": 1024, "hosts": [["big", 0, 1023]]}
    found = page_of(tmp_path / "a", hosts, large).column(TABLE)
    assert found["slowest rank"] == "rank 900 on big, in 100% of 1 intervals"
    assert (found["its own seconds a step, when it last was"], found["most memory of a rank"]) == (
        "0.7",
        "4 GiB",
    )
    unknown = of_ranks(10, slowest_rank=None, to_median=None, own_seconds=[None] * 4)
    found = page_of(tmp_path / "b", HOSTS, unknown).column(TABLE)
    assert (found["slowest rank"], found["the same, last"]) == ("-", "-")
    assert found["data wait, highest"] == "4.1% (step 10)"


def test_without_the_file_there_is_no_section(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    assert "Ranks" not in page.headings and TABLE not in page.tables


@pytest.mark.parametrize(
    "line",
    [
        {"step": "x"},
        {"step": 10, "hosts": "n01"},
        {"step": 10, "hosts": [["n01"], 3, ["<b>", "0", 1]]},
        {"step": 5},
        {
            "step": 20,
            "slowest_rank": "<script>",
            "own_seconds": "x",
            "peak_bytes": {"max": [1]},
            "to_median": {},
        },
        {"step": 20, "slowest_rank": 10**40, "own_seconds": [10**400], "data_wait": True},
    ],
)
def test_what_is_damaged_or_made_up_is_no_more_than_text(tmp_path: Path, line: dict[str, Any]) -> None:
    page = page_of(tmp_path, {"step": 0, "hosts": [["<i>n01</i>", 0, 3]]}, of_ranks(10), line)
    note = "1 line is damaged or out of order in ranks.jsonl, and left out."
    assert (note in page.text) == (line["step"] in ("x", 5))
    assert "i" not in [name for name, _ in page.elements]
    host = "a host not named" if "hosts" in line else "<i>n01</i>"
    assert page.column(TABLE)["slowest rank"].startswith(f"rank 2 on {host}, ")
