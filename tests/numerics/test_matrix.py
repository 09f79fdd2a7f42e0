"""Every cell of the equality matrix takes the steps that one plain process takes.

A sample that holds every pair of values, 20 steps each; with --in-full every triple, 50 steps each. With
`--matrix-results FOLDER` the largest deviation of every cell is written there.
"""

from itertools import islice
from math import isfinite
from pathlib import Path

import pytest
import torch

from pretrain.build import row_stream
from pretrain.data.loader import Loader
from pretrain.data.order import Cursor
from pretrain.data.store import TokenStore
from tests.numerics import cells, deviations
from tests.numerics.cells import Cell
from tests.numerics.conftest import Judge
from tests.numerics.courses import run_cells
from tests.numerics.deviations import FP32_NORM, FP32_WEIGHTS, LOSS, Judged
from tests.numerics.outcome import Deviation, deviation
from tests.numerics.recipe import GLOBAL_BATCH, MAX_GRAD_NORM, SEED, OptimizerName, Setting

SECONDS_PER_WORLD = {False: 300.0, True: 1800.0}
STEPS = {False: 20, True: 50}
SETTINGS: list[tuple[OptimizerName, bool]] = [
    (optimizer, packing) for optimizer in ("lamb", "adamw") for packing in (True, False)
]
pytestmark = pytest.mark.slow


def all_cells(in_full: bool) -> list[Cell]:
    if in_full:
        return [*cells.matrix(), *cells.special()]
    return [*cells.sample(), *cells.special_sample()]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cell" in metafunc.fixturenames:
        metafunc.parametrize("cell", all_cells(metafunc.config.getoption("--in-full")), ids=str)


@pytest.fixture(scope="module")
def steps(in_full: bool) -> int:
    return STEPS[in_full]


@pytest.fixture(scope="module")
def judged(
    course_folder: Path, judge: Judge, steps: int, in_full: bool, pytestconfig: pytest.Config
) -> dict[Cell, Judged]:
    """All cells, run and compared, and the table of them where it is asked for."""
    outcomes = run_cells(course_folder, all_cells(in_full), steps, SECONDS_PER_WORLD[in_full])
    found = {}
    for cell, outcome in outcomes.items():
        setting = cell.setting(steps)
        found[cell] = Judged(
            deviation(judge(setting), outcome), deviation(judge(setting, torch.float64), outcome)
        )
    if folder := pytestconfig.getoption("--matrix-results"):
        settings = [Setting(*each, steps) for each in SETTINGS]
        plain = {str(setting): plain_deviations(judge, setting) for setting in settings}
        deviations.write_results(Path(folder), found, plain, steps)
    return found


def plain_deviations(judge: Judge, setting: Setting) -> dict[str, Deviation]:
    """Of single processes without the framework from float64: in float32, and in float64 around a model of bf16 or
    fp16."""
    double = judge(setting, torch.float64)
    return {
        "fp32": deviation(double, judge(setting)),
        "bf16": deviation(double, judge(setting, torch.float64, torch.bfloat16)),
        "fp16": deviation(double, judge(setting, torch.float64, torch.float16)),
    }


@pytest.mark.parametrize(("optimizer", "packing"), SETTINGS)
def test_the_course_is_hard(
    course_folder: Path, judge: Judge, steps: int, optimizer: OptimizerName, packing: bool
) -> None:
    """Clipping acts in some steps and not in others; the loss falls; ranks have unequal masks, by far where rows
    are padded; and some step takes an epoch's last rows, too few for it, with the first of the next."""
    setting = Setting(optimizer, packing, steps)
    course = judge(setting)
    clipped = [norm > MAX_GRAD_NORM for norm in course.grad_norms]
    assert 3 <= sum(clipped) <= steps - 3
    assert min(course.losses) < course.losses[0] - 0.9
    store = TokenStore.open(course_folder / "store")
    stream = row_stream(store, "train", setting.sampling, SEED)
    with Loader(stream, Cursor(0, 0, 0), GLOBAL_BATCH, 4, 0, 2) as loader:
        batches = list(islice(loader, steps))
    shares = [sum(batch.num_masked for batch in step.micro_batches) / step.num_masked for step in batches]
    assert sum(share != 0.5 for share in shares) >= steps / 2
    assert sum(abs(share - 0.5) > 0.02 for share in shares) >= steps / (10 if packing else 2.5)
    ends = [step.next_cursor.as_list() for step in batches]
    assert any(end[0] > 0 and 0 < end[2] < GLOBAL_BATCH for end in ends)


def test_equals_one_plain_process(cell: Cell, judged: dict[Cell, Judged]) -> None:
    found = judged[cell].from_single
    print(found)
    assert found.loss < LOSS[cell.precision]
    if cell.precision == "fp32":
        assert found.grad_norm < FP32_NORM
        assert found.weights[found.farthest] < FP32_WEIGHTS, found.farthest
    else:
        # Nearer, it would have been computed in fp32.
        assert found.loss > 1e-6
        assert all(isfinite(distance) for distance in found.weights.values())


@pytest.mark.parametrize(("optimizer", "packing"), SETTINGS)
def test_the_tolerances_of_half_precision_are_those_of_its_rounding(
    judge: Judge, steps: int, optimizer: OptimizerName, packing: bool
) -> None:
    """One plain process whose model rounds to bf16 or fp16, in float64 around it, is as far from float64 as the
    tolerance says. float32 is far nearer, so that it can be the judge."""
    found = plain_deviations(judge, Setting(optimizer, packing, steps))
    print(found)
    for precision in ("bf16", "fp16"):
        assert LOSS[precision] / 20 < found[precision].loss < LOSS[precision]
    assert found["fp32"].loss < min(LOSS["fp32"] / 5, found["bf16"].loss / 500)
    assert max(found["fp32"].weights.values()) < FP32_WEIGHTS
