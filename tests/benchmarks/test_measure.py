"""Turns, medians and ratios by hand; peers that cannot run; what Megatron-LM prints; peak memory of processes."""

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tests.benchmarks.commands import megatron, megatron_progress
from tests.benchmarks.measure import NotRun, Peer, Trial, alternate, ratio
from tests.benchmarks.processes import watch
from tests.benchmarks.report import RateTable, as_json, as_markdown, provenance

_MIB = 1 << 20
PREPROCESS = """
import sys
from typing import override

import triton
import triton.language as tl

@triton.jit
@override
def kernel(size: tl.constexpr) -> None: ...

print("Time to startup: 0.1")
for count, rate in ((10, 5.0), (20, 8.0), (40, 10.0)):
    print(f"Processed {count} documents ({rate} docs/s, 0.25 MB/s).", file=sys.stderr)
"""


def peers_of(order: list[str]) -> list[Peer]:
    """Ours: 100 bytes in 1, 2 and 4 s. Theirs: 100 in 8 s each time. The third never runs."""

    def ours(number: int) -> Trial:
        order.append("ours")
        return Trial(100, 2.0**number, 0.5, startup_seconds=3.0, details={"tokens": 7})

    def theirs(_: int) -> Trial:
        order.append("theirs")
        return Trial(100, 8.0)

    def absent(_: int) -> Trial:
        order.append("absent")
        raise NotRun("it is not here.")

    return [
        Peer("ours", ours, is_ours=True),
        Peer("theirs", theirs, asked=(2.0, 5.0)),
        Peer("absent", absent),
    ]


def test_turns_medians_and_ratios() -> None:
    order: list[str] = []
    ours, theirs, absent = alternate(peers_of(order), 3, lambda _: None)
    assert order == ["ours", "theirs", "absent", "theirs", "ours", "ours", "theirs"]
    assert (ours.rate, ours.spread) == (50.0, (25.0, 100.0))
    assert ratio(ours, theirs) == 4.0
    assert (absent.trials, absent.reason, ratio(ours, absent)) == ((), "it is not here.", None)
    assert ours.median(lambda trial: trial.startup_seconds) == 3.0
    assert theirs.median(lambda trial: trial.startup_seconds) is None


def test_report_says_the_same_in_both_forms() -> None:
    summaries = alternate(peers_of([]), 3, lambda _: None)
    ours, theirs, absent = as_json(summaries)
    assert (ours["rate"], ours["lowest"], ours["highest"]) == (50.0, 25.0, 100.0)
    assert [trial["tokens"] for trial in ours["trials"]] == [7, 7, 7]
    assert (theirs["ours_over_it"], theirs["floor"], theirs["aim"]) == (4.0, 2.0, 5.0)
    assert absent["not_run"] == "it is not here."
    table = RateTable("a title", "B")
    table.add("a group", summaries)
    printed = io.StringIO()
    table.print(Console(file=printed, width=140))
    for part in ("a title", "a group", "4.0x", "2x", "5x", "not run", "absent was not run: it is not here."):
        assert part in printed.getvalue()


def test_a_table_for_the_docs_says_it_too() -> None:
    lines = as_markdown({"a group": alternate(peers_of([]), 3, lambda _: None)}, "k", 10.0).splitlines()
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in lines] == [
        ["", "k/s", "lowest to highest", "ours is"],
        ["---", "---:", "---:", "---:"],
        ["**a group**", "", "", ""],
        ["ours", "5.00", "2.50 to 10.00", ""],
        ["theirs", "1.25", "1.25 to 1.25", "4.00x"],
        ["absent", "not run", "", ""],
    ]


def test_provenance_can_be_typed_again() -> None:
    known = json.loads(json.dumps(provenance("tests.benchmarks.data_prep", ["--cache", "a folder"])))
    assert known["command"] == "python -m tests.benchmarks.data_prep --cache 'a folder'"
    assert known["machine"]["cores_used"] >= 1
    assert known["versions"]["numpy"][0].isdigit()


def test_megatron_from_its_first_to_its_last_line(tmp_path: Path) -> None:
    """10 documents after 2 s, 40 after 4 s: 30 of the 50 documents, so 600 of their 1,000 bytes, in 2 s."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "preprocess_data.py").write_text(PREPROCESS)
    documents = tmp_path / "documents.jsonl"
    documents.write_text("{}\n" * 50)
    trial = megatron(tmp_path, documents, 1_000, tmp_path, tmp_path)
    assert (trial.amount, trial.seconds, trial.rate) == (600, 2.0, 300.0)


def test_megatron_that_cannot_run_says_why(tmp_path: Path) -> None:
    with pytest.raises(NotRun, match="--megatron"):
        megatron(None, tmp_path, 1, tmp_path, tmp_path)
    with pytest.raises(NotRun, match="has no tools"):
        megatron(tmp_path, tmp_path, 1, tmp_path, tmp_path)
    with pytest.raises(NotRun, match="too little text"):
        megatron_progress("Processed 10 documents (5.0 docs/s, 0.2 MB/s).\n too little text\n\n", 50, 1_000)


def test_peak_memory_is_a_process_s_own() -> None:
    """A large parent of a small child: what was resident once counts, and the child has its own count."""
    child = "import time; time.sleep(0.3)"
    parent = (
        "import subprocess, sys\n"
        f"large = bytearray(b'x') * {200 * _MIB}\n"
        "del large\n"
        f"held = bytearray(b'x') * {60 * _MIB}\n"
        f"subprocess.run([sys.executable, '-c', {child!r}], close_fds=False)\n"
    )
    watched = watch([sys.executable, "-c", parent])
    main, other = watched.peaks
    assert (main.role, other.role) == ("main", "other")
    assert 200 * _MIB < main.resident_bytes < 300 * _MIB
    assert main.anonymous_bytes > 60 * _MIB
    assert other.resident_bytes < 50 * _MIB
    assert watched.anonymous_bytes > 60 * _MIB
    with pytest.raises(RuntimeError, match="gone wrong"):
        watch([sys.executable, "-c", "raise SystemExit('gone wrong')"])
