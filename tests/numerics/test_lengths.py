"""Two ranks under every engine and stage: SGD takes the same steps, and the clock ends all ranks at one step."""

from pathlib import Path

import pytest

from pretrain.backends.carried import BackendName
from tests.numerics.outcome import relative
from tests.numerics.runs import ENGINES, Ending, Start, newest, prepare, records, start
from tests.worlds import run_ranks

TOLERANCE = 1e-6
HOURS = 0.0005
SGD = (
    "model.dropout=0.0",
    "optimizer.name=sgd",
    "optimizer.lr=0.1",
    "optimizer.nesterov=true",
    "schedule.name=cosine",
    "train.label_smoothing=0.1",
    "train.steps=8",
)
CLOCK = (f"train.hours={HOURS}", "train.steps=99999", "eval.every=0", "checkpoint.every=0")
SAMPLE = (("fsdp", 0), ("fsdp", 2), ("deepspeed", 1), ("deepspeed", 3))
pytestmark = pytest.mark.slow


def engines(in_full: bool) -> list[tuple[BackendName, int]]:
    return [engine for engine in ENGINES if in_full or engine in SAMPLE]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "stage" in metafunc.fixturenames:
        metafunc.parametrize(("backend", "stage"), engines(metafunc.config.getoption("--in-full")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, in_full: bool) -> Path:
    path = tmp_path_factory.mktemp("lengths")
    prepare(path)
    starts = [
        Start(path / f"{backend}-{stage}", backend, f"zero{stage}", SGD)
        for backend, stage in engines(in_full)
    ]
    starts += [Start(path / "clock", "fsdp", "zero2", CLOCK)] * 2
    assert run_ranks(start, 2, path, starts, timeout=240.0) == [[Ending(0)] * len(starts)] * 2
    return path


def test_sgd_is_the_same_under_every_engine_and_stage(folder: Path, backend: str, stage: int) -> None:
    whole, cut = records(folder / "fsdp-0"), records(folder / f"{backend}-{stage}")
    assert [record["lr"] for record in cut] == [record["lr"] for record in whole]
    assert whole[-1]["loss"] < whole[0]["loss"] - 0.1
    for key in ("loss", "grad_norm"):
        found = relative([record[key] for record in whole], [record[key] for record in cut])
        print(f"{key}: {found:.1e}")
        assert found < TOLERANCE, key
    assert newest(folder / f"{backend}-{stage}")[1].kinds == ["master", "momentum_buffer"]


def test_the_clock_ends_both_ranks_at_one_step_and_for_good(folder: Path) -> None:
    """Ranks that disagreed would wait for one another; the second start would go on if the state were short."""
    state = newest(folder / "clock")[1].state
    assert state.step == len(records(folder / "clock"))
    assert state.seconds >= 3600 * HOURS
