"""Broken courses are red: each lies clearly outside the tolerance that the sound ones keep."""

from pathlib import Path

import pytest

from tests.numerics.cells import Cell
from tests.numerics.conftest import Judge
from tests.numerics.deviations import FP32_NORM, LOSS
from tests.numerics.mutants import NAIVE, broken_courses, mutants
from tests.numerics.outcome import Outcome, relative
from tests.worlds import run_ranks

RANKS, STEPS = 2, 10
CLEARLY_RED = 100  # times the tolerance
MUTANTS = mutants(RANKS)
CONTROL = (NAIVE, Cell("deepspeed", 0, RANKS))
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def broken(course_folder: Path) -> dict[tuple[str, Cell], Outcome]:
    outcomes = run_ranks(broken_courses, RANKS, course_folder, STEPS, timeout=240.0)[0]
    return dict(zip(MUTANTS, outcomes, strict=True))


@pytest.mark.parametrize(
    "mutant", MUTANTS, ids=lambda mutant: f"{mutant[0]}, {mutant[1].backend} {mutant[1].stage}"
)
def test_is_red(judge: Judge, broken: dict[tuple[str, Cell], Outcome], mutant: tuple[str, Cell]) -> None:
    sound, course = judge(mutant[1].setting(STEPS)), broken[mutant]
    loss = relative(sound.losses, course.losses)
    norm = relative(sound.grad_norms, course.grad_norms)
    print(f"loss {loss:.1e}, gradient norm {norm:.1e}")
    if mutant == CONTROL:
        # Where no weight is cut the naive LAMB is right, so that the cut is what it fails on.
        assert loss < LOSS["fp32"] and norm < FP32_NORM
    else:
        assert loss > CLEARLY_RED * LOSS["fp32"]
        assert norm > CLEARLY_RED * FP32_NORM
