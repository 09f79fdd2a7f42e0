"""What a run of the GPU benchmark may do wrong, what is chosen, and what is printed of it: nothing is trained."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.benchmarks.gpu import SIZES, chosen, parts_of
from tests.benchmarks.gpu_runs import Cell, Course, launched
from tests.benchmarks.gpu_table import Asked, measured, sentence
from tests.benchmarks.gpu_trainer import COUNTS, Counting
from tests.benchmarks.measure import NotRun, Peer, Summary, Trial
from tests.benchmarks.step_clock import Timing

OUT_OF_MEMORY = """
import pathlib, sys
words = "OutOfMemoryError: CUDA out of memory.\\nTried to allocate 9 GiB"
pathlib.Path(sys.argv[1], "error-00000.txt").write_text(words)
sys.exit("a launcher's summary, which says nothing")
"""


def course(tmp_path: Path, seconds: float = 60.0) -> Course:
    ends = time.monotonic() + seconds
    return Course(tmp_path, tmp_path, Timing(), 1, torch.device("cpu"), most_seconds=1.0, ends=ends)


def test_what_a_rank_died_of_is_the_reason(tmp_path: Path) -> None:
    with pytest.raises(NotRun, match=r"^OutOfMemoryError: CUDA out of memory\. Tried to allocate 9 GiB$"):
        launched([sys.executable, "-c", OUT_OF_MEMORY, str(tmp_path)], 30.0, tmp_path)
    with pytest.raises(NotRun, match="last words"):
        launched([sys.executable, "-c", "import sys; sys.exit('last words')"], 30.0, tmp_path / "none")


def test_what_hangs_is_ended(tmp_path: Path) -> None:
    with pytest.raises(NotRun, match=r"^it ran past 1 s; last it said \".*so far\"$"):
        launched([sys.executable, "-uc", "print('so far'); import time; time.sleep(60)"], 1.0, tmp_path)


def test_nothing_is_begun_when_the_time_is_over(tmp_path: Path) -> None:
    assert course(tmp_path).seconds(1.0) == 1.0
    with pytest.raises(NotRun, match="--minutes"):
        course(tmp_path, seconds=1.0).ours(Cell("bert-tiny", 32, 8))(0)


@pytest.mark.parametrize("quick", [False, True])
def test_all_parts_are_there_and_each_has_one_to_compare_with(tmp_path: Path, quick: bool) -> None:
    parts = parts_of(course(tmp_path), SIZES[quick], quick)
    asked = argparse.Namespace(only=None, quick=quick, all=True)
    taken = list(chosen(parts, asked))
    assert [part.name for part in taken] == [part.name for part in parts]
    assert {part.module for part in taken if part.module} == {"operators", "optimizer"}
    for part in taken:
        ours = [peer.name for peer in part.peers if peer.is_ours]
        assert len(ours) == (0 if part.module else 1)
    whole = {peer.name for peer in taken[0].peers}
    for choice in ("", ", no attention dropout", ", no attention dropout, compiled"):
        assert {f"ours{choice}", f"HF Trainer, concatenated{choice}"} <= whole
    engines = {peer.name for part in taken if "engines" in part.name for peer in part.peers}
    assert engines == {f"ours, {engine} {stage}" for engine in ("fsdp", "deepspeed") for stage in range(4)}
    asked.only = ["engines"]
    assert all("engines" in part.name for part in chosen(parts, asked))


def test_shares_of_the_ceilings() -> None:
    """By hand, on two GPUs: 6e14 FLOP/s of both are 3e14 of one, of a peak of 1e15 and a product of 6e14."""
    details = {"flops_per_second": 6e14, "peak_bytes": 3e10, "seconds_per_step": 0.5}
    ours = Summary(
        Peer("ours", lambda _: Trial(1, 1.0), is_ours=True), (Trial(420_000, 1.0, details=details),)
    )
    lost = Summary(Peer("HF Trainer", lambda _: Trial(1, 1.0)), (), "out of memory")
    result: dict[str, Any] = {"ranks": 2, "peak_flops": 1e15, "ceilings": {"product_flops": 6e14}}
    entry, other = measured([ours, lost], result)
    assert (entry["mfu"], entry["of_products"], entry["peak_bytes"]) == (0.3, 0.5, 3e10)
    assert other["not_run"] == "out of memory"
    said = sentence(Asked("bert-large, 512", 200_000.0, 254_000.0, 0.4), [entry, other])
    assert "210,000 real tokens/s (floor 200,000, aim 254,000), MFU 30.0% (asked: 40%), 50.0%" in said


def test_collator_counts_what_is_no_padding() -> None:
    batch = {
        "attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]]),
        "labels": torch.tensor([[-100, 7, -100], [8, -100, 9]]),
    }
    assert Counting(lambda _: batch)([{}, {}])[COUNTS] == (5, 4 + 9, 3)
