"""Two ranks as a user meets them: one is slow, one fails; what the terminal, the run folder and the log say of it."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from pretrain.command import main
from pretrain.faults.tiny import write_tiny_store
from pretrain.faults.world import World, world
from tests.end_to_end.runs import LAUNCH, write_model
from tests.report.reading import read

pytestmark = pytest.mark.slow
STEPS = 4
_RAISES = f"""
import runpy, warnings
from pretrain import build, comm
def fails(*args):
    warnings.warn("it will fail")
    print("only a print")
    raise ValueError("no such thing in rank %d" % comm.placement().rank)
if comm.placement().rank == 1:
    build.build_encoder = fails
runpy.run_path({str(LAUNCH)!r}, run_name="__main__")
"""


@pytest.fixture
def options(tmp_path: Path) -> Sequence[str]:
    write_tiny_store(tmp_path / "store", 60)
    model = write_model(tmp_path / "tiny.json")
    shape = ("data.seq_len=32", "train.global_batch=4", f"train.steps={STEPS}", "eval.rows=2", "log.every=1")
    return (f"--data={tmp_path / 'store'}", f"model.config={model}", *shape)


def printed(run: World, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """By `python -m pretrain log`."""
    capsys.readouterr()
    assert main(["log", str(run.run), *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def test_a_slow_rank_in_all_that_a_run_says(
    tmp_path: Path, options: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("log.peak_tflops=0.001", "profile.from_step=2", "profile.steps=2", "profile.ranks=[1]")
    fault = {"where": "reading data", "rank": 1, "seconds": 0.4}
    with world(LAUNCH, tmp_path, [*options, *asked], 2, fault=fault) as run:
        assert run.end()[0] == [0, 0], run.said
    said = run.said.splitlines()
    (summary,) = [line for line in said if line.startswith("Slowest: ")]
    assert summary.startswith("Slowest: rank 1 on ") and "; data wait " in summary

    lines = [json.loads(line) for line in (run.run / "ranks.jsonl").read_text().splitlines()]
    assert [(line["step"], "hosts" in line) for line in lines] == [
        (0, True),
        (1, False),
        (2, False),
        (3, False),
        (4, False),
    ]
    waits = [line["data_wait_seconds"] for line in lines[1:]]
    assert sum(late for _, late in waits) > max(0.4, 2 * sum(quick for quick, _ in waits))
    metrics = [json.loads(line) for line in (run.run / "metrics.jsonl").read_text().splitlines()]
    assert all(0 <= line["data_wait"] <= 1 and line["mfu"] > 0 for line in metrics)

    names = sorted(path.name for path in (run.run / "profile").iterdir())
    assert names == ["steps-2-3.rank-1.json.gz", "steps-2-3.rank-1.txt"]
    with gzip.open(run.run / "profile" / names[0], "rt") as file:
        traced = {event["name"] for event in json.load(file)["traceEvents"]}
    assert {"step 2", "step 3", "waiting for data", "optimizer step", "adding up losses"} <= traced
    assert {"forward and backward of micro-batch 1 of 1", "aten::addmm", "AddmmBackward0"} <= traced

    log = printed(run, capsys)
    assert sum("--- start: 2 rank(s) ---" in line for line in log) == 1
    assert any(line.endswith(f"[rank 0] {summary}") for line in log)
    assert [line for line in log if "[rank 1]" in line and "step 1/" in line] == []
    assert main(["report", str(run.run), "--output", str(tmp_path / "page.html")]) == 0
    table = read(tmp_path / "page.html").column("The ranks beside each other")
    assert table["slowest rank"].startswith("rank 1 on ")


def test_what_a_rank_fails_with_reaches_the_terminal(tmp_path: Path, options: Sequence[str]) -> None:
    script = tmp_path / "raises.py"
    script.write_text(_RAISES)
    with world(script, tmp_path, options, 2) as run:
        codes, _ = run.end()
    assert codes[1] == 1, run.said
    said = run.said.splitlines()
    assert run.sentence == "error: Rank 1 failed before the first step: ValueError: no such thing in rank 1"
    assert "[rank 1] Traceback (most recent call last):" in said
    assert "[rank 1] ValueError: no such thing in rank 1" in said
    assert not any("it will fail" in line or "only a print" in line for line in said)
