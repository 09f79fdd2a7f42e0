"""A batch that grows by stages: one course under every engine and stage, and across a stop in any of them."""

from pathlib import Path

import pytest

from pretrain.backends.carried import BackendName
from tests.numerics.outcome import relative
from tests.numerics.runs import Ending, Start, newest, prepare, records, start
from tests.worlds import run_ranks

pytestmark = pytest.mark.slow
ROWS = [4, 4, 4, 8, 8, 16, 16, 16]
STAGES = (
    "train.batch_stages=[[3, 4], [2, 8]]",
    "train.global_batch=16",
    f"train.steps={len(ROWS)}",
    "optimizer.lr_scaling=sqrt",
    "schedule.name=constant",
    "schedule.warmup=2",
    "model.dropout=0.0",
    "eval.every=0",
    "checkpoint.every=0",
)
STOPS = (2, 3, 4)  # in a stage, at its end, after the first step of the next
TOLERANCE = 1e-6
BACKENDS: tuple[BackendName, ...] = ("fsdp", "deepspeed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stages")
    prepare(path)
    starts = [
        Start(path / f"{backend}-{stage}", backend, f"zero{stage}", STAGES)
        for backend in BACKENDS
        for stage in range(4)
    ]
    endings = [Ending(0)] * len(starts)
    for stop in STOPS:
        halves = Start(
            path / f"stopped-{stop}", "deepspeed", "zero2", (*STAGES, f"train.stop_at_step={stop}")
        )
        starts += [halves, Start(path / f"stopped-{stop}", "deepspeed", "zero2", STAGES)]
        endings += [Ending(75), Ending(0)]
    found = run_ranks(start, 2, path, starts, timeout=300.0)
    assert [[each.exit_code for each in rank] for rank in found] == [[e.exit_code for e in endings]] * 2
    return path


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("backend", BACKENDS)
def test_it_is_one_course(folder: Path, backend: str, stage: int) -> None:
    whole, cut = records(folder / "fsdp-0"), records(folder / f"{backend}-{stage}")
    assert [record["global_batch"] for record in cut] == ROWS
    rates = [0.01 * (rows / 16) ** 0.5 * min(1, (step + 1) / 2) for step, rows in enumerate(ROWS)]
    assert [record["lr"] for record in cut] == pytest.approx(rates)
    assert [record["cursor"] for record in cut] == [record["cursor"] for record in whole]
    for key in ("loss", "grad_norm"):
        found = relative([record[key] for record in whole], [record[key] for record in cut])
        print(f"{key}: {found:.1e}")
        assert found < TOLERANCE, key


@pytest.mark.parametrize("stop", STOPS)
def test_stopped_in_any_stage_it_goes_on_bit_for_bit(folder: Path, stop: int) -> None:
    assert records(folder / f"stopped-{stop}") == records(folder / "deepspeed-2")
    (_, ours), (_, theirs) = newest(folder / f"stopped-{stop}"), newest(folder / "deepspeed-2")
    assert [file.sha256 for file in ours.files] == [file.sha256 for file in theirs.files]
