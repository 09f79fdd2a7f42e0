"""However the same micro-batches are dealt out over ranks and accumulation, the course is the same one.

One and four ranks; two and eight only with --in-full, because on two cores eight take as long to start
as all others together.
"""

from pathlib import Path

import pytest

from tests.numerics.cells import Cell
from tests.numerics.conftest import Judge
from tests.numerics.courses import run_cells
from tests.numerics.deviations import FP32_NORM, LOSS
from tests.numerics.outcome import Outcome, relative
from tests.numerics.recipe import GLOBAL_BATCH

MICRO_BATCHES = 8
STEPS = 12
# From each other, and not only from the judge.
APART = 5e-7
RANKS = {False: (1, 4), True: (1, 2, 4, 8)}
ENGINES = (("deepspeed", 2), ("fsdp", 3))
pytestmark = pytest.mark.slow


def cells(cuts: list[tuple[int, int]]) -> list[Cell]:
    return [
        Cell(
            "fsdp" if backend == "fsdp" else "deepspeed", stage, ranks, "fp32", accumulation, packing=packing
        )
        for backend, stage in ENGINES
        for ranks, accumulation in cuts
        for packing in (False, True)
    ]


@pytest.fixture(scope="module")
def cuts(in_full: bool) -> list[tuple[int, int]]:
    """(ranks, accumulation)."""
    return [(ranks, MICRO_BATCHES // ranks) for ranks in RANKS[in_full]]


@pytest.fixture(scope="module")
def outcomes(course_folder: Path, cuts: list[tuple[int, int]]) -> dict[Cell, Outcome]:
    return run_cells(course_folder, cells(cuts), STEPS, timeout=400.0)


@pytest.mark.parametrize("packing", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize(("backend", "stage"), ENGINES)
def test_ranks_and_accumulation_do_not_change_the_course(
    outcomes: dict[Cell, Outcome],
    cuts: list[tuple[int, int]],
    judge: Judge,
    backend: str,
    stage: int,
    packing: bool,
) -> None:
    mine = [cell for cell in outcomes if (cell.backend, cell.packing) == (backend, packing)]
    assert [(cell.ranks, cell.accumulation) for cell in mine] == cuts
    assert {cell.micro_batch for cell in mine} == {GLOBAL_BATCH // MICRO_BATCHES}
    plain = judge(mine[0].setting(STEPS))
    first = outcomes[mine[0]]
    for cell in mine:
        course = outcomes[cell]
        apart = relative(first.losses, course.losses), relative(first.grad_norms, course.grad_norms)
        off = relative(plain.losses, course.losses), relative(plain.grad_norms, course.grad_norms)
        print(f"{cell}: from 1x8 {apart[0]:.1e} {apart[1]:.1e}, from the judge {off[0]:.1e} {off[1]:.1e}")
        assert max(apart) < APART
        assert off[0] < LOSS["fp32"] and off[1] < FP32_NORM
