"""Broken courses are red: each lies clearly outside the tolerance that the sound ones keep."""

from pathlib import Path

import pytest

from tests.numerics.cells import Cell
from tests.numerics.conftest import Judge
from tests.numerics.deviations import FP32_NORM, LOSS
from tests.numerics.mutants import CONTROL, broken_courses
from tests.numerics.outcome import Outcome, relative
from tests.worlds import run_ranks

RANKS, STEPS = 2, 20
CLEARLY_RED = 100  # times the tolerance
NAMES = (
    "naive LAMB, deepspeed 2",
    "mean of means, deepspeed 2",
    "mean of means, fsdp 3",
    *(f"{name}, {backend} 3" for name in ("own norm", "own trust") for backend in ("fsdp", "deepspeed")),
    *(f"over replicas, {backend} 0" for backend in ("fsdp", "deepspeed")),
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def broken(course_folder: Path) -> dict[str, Outcome]:
    found: dict[str, Outcome] = run_ranks(broken_courses, RANKS, course_folder, STEPS, timeout=300.0)[0]
    return found


def distances(judge: Judge, course: Outcome, *, packing: bool = False) -> tuple[float, float]:
    sound = judge(Cell("fsdp", 0, packing=packing).setting(STEPS))
    return relative(sound.losses, course.losses), relative(sound.grad_norms, course.grad_norms)


def test_all_are_tried(broken: dict[str, Outcome]) -> None:
    assert set(broken) == {CONTROL, *NAMES}


def test_naive_lamb_is_right_where_no_weight_is_cut(judge: Judge, broken: dict[str, Outcome]) -> None:
    """So that the cut is what it fails on."""
    loss, norm = distances(judge, broken[CONTROL])
    assert loss < LOSS["fp32"] and norm < FP32_NORM


@pytest.mark.parametrize("name", NAMES)
def test_is_red(judge: Judge, broken: dict[str, Outcome], name: str) -> None:
    loss, norm = distances(judge, broken[name], packing=name == "mean of means, fsdp 3")
    print(f"{name}: loss {loss:.1e}, gradient norm {norm:.1e}")
    assert loss > CLEARLY_RED * LOSS["fp32"]
    assert norm > CLEARLY_RED * FP32_NORM
