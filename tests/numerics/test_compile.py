"""Compiled layers under every engine and stage: the course of the judge, as uncompiled ones take it."""

from pathlib import Path

import pytest

from tests.numerics.cells import GROUPS, SECOND, SUB_GROUPS, Cell, in_one_process
from tests.numerics.conftest import Judge
from tests.numerics.courses import run_cells
from tests.numerics.outcome import deviation

STEPS = 6
TOLERANCE = {"fp32": 2e-6, "bf16": 1e-3}
# The two whose hooks do most around a layer: what is gathered ahead, offloaded, kept in part, stepped in sub-groups.
SAMPLE = [
    Cell(
        "deepspeed",
        3,
        zero=SUB_GROUPS,
        offload="everything",
        compile=True,
    ),
    Cell(
        "fsdp",
        3,
        packing=True,
        checkpointing=2,
        zero=(("stage3_prefetch_bucket_size", 50_000),),
        offload="everything",
        compile=True,
    ),
]
CELLS = [
    *SAMPLE,
    Cell("fsdp", 0, precision="bf16", compile=True),
    Cell("fsdp", 1, checkpointing="full", compile=True),
    Cell("fsdp", 2, packing=True, compile=True),
    Cell("deepspeed", 0, packing=True, compile=True),
    Cell("deepspeed", 1, precision="bf16", packing=True, compile=True),
    Cell("deepspeed", 2, checkpointing="full", compile=True),
    Cell("deepspeed", 3, precision="bf16", packing=True, checkpointing="full", compile=True),
    Cell("deepspeed", 0, precision="bf16", compile=True),
    Cell("deepspeed", 3, compile=True),
    Cell("deepspeed", 3, zero=(("stage3_prefetch_bucket_size", 0),), packing=True, compile=True),
    Cell("deepspeed", 2, precision="bf16", offload="optimizer", compile=True),
    Cell("fsdp", 3, packing=True, checkpointing=2, compile=True),
    # Four ranks: two groups that are replicas of each other, and secondary partitions of two.
    Cell("fsdp", 3, 4, zero=GROUPS, compile=True),
    Cell("fsdp", 3, 4, zero=SECOND, packing=True, compile=True),
    Cell("deepspeed", 3, 4, zero=SECOND, compile=True),
]
pytestmark = pytest.mark.slow


def test_the_course_is_that_of_the_judge(course_folder: Path, judge: Judge, in_full: bool) -> None:
    cells = sorted(CELLS if in_full else SAMPLE, key=in_one_process)
    for cell, outcome in run_cells(course_folder, cells, STEPS, timeout=900.0).items():
        found = deviation(judge(cell.setting(STEPS)), outcome)
        print(cell, found.loss, found.grad_norm)
        assert found.loss < TOLERANCE[cell.precision], cell
