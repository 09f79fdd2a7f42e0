"""Two ranks under every engine and stage: Adafactor takes the same steps, and goes on after a stop."""

from pathlib import Path

import pytest

from pretrain.backends.carried import BackendName
from tests.numerics.outcome import relative
from tests.numerics.runs import Ending, Start, newest, prepare, records, start
from tests.worlds import run_ranks

pytestmark = pytest.mark.slow
TOLERANCE = 2e-6
BACKENDS: tuple[BackendName, ...] = ("fsdp", "deepspeed")
RECIPE = (
    "optimizer.name=adafactor",
    "optimizer.lr=0.03",
    "train.steps=8",
    "eval.every=0",
    "checkpoint.every=0",
)
WITHOUT_DROPOUT = (*RECIPE, "model.dropout=0.0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adafactor")
    prepare(path)
    starts = [
        Start(path / f"{backend}-{stage}", backend, f"zero{stage}", WITHOUT_DROPOUT)
        for backend in BACKENDS
        for stage in range(4)
    ]
    stop = ("train.stop_at_step=3",)
    starts += [
        Start(path / "stopped", "deepspeed", "zero2", WITHOUT_DROPOUT + stop),
        Start(path / "stopped", "deepspeed", "zero2", WITHOUT_DROPOUT),
        Start(path / "changed", "deepspeed", "zero3", WITHOUT_DROPOUT + stop),
        Start(path / "changed", "fsdp", "zero2", WITHOUT_DROPOUT),
    ]
    endings = run_ranks(start, 2, path, starts, timeout=240.0)[0]
    assert endings[:8] == [Ending(0)] * 8
    assert [ending.exit_code for ending in endings[8:]] == [75, 0, 75, 0], endings
    return path


@pytest.mark.parametrize("name", [*(f"{b}-{s}" for b in BACKENDS for s in range(4)), "changed"])
def test_it_is_one_course(folder: Path, name: str) -> None:
    whole, cut = records(folder / "fsdp-0"), records(folder / name)
    assert whole[-1]["loss"] < whole[0]["loss"] - 0.1
    for key in ("loss", "grad_norm"):
        found = relative([record[key] for record in whole], [record[key] for record in cut])
        print(f"{key}: {found:.1e}")
        assert found < TOLERANCE, key
    manifest = newest(folder / name)[1]
    assert (manifest.kinds, manifest.vectors) == (["master"], ["exp_avg_sq_row", "exp_avg_sq_col"])


def test_stopped_it_goes_on_bit_for_bit(folder: Path) -> None:
    assert records(folder / "stopped") == records(folder / "deepspeed-2")
    (_, ours), (_, theirs) = newest(folder / "stopped"), newest(folder / "deepspeed-2")
    assert [file.sha256 for file in ours.files] == [file.sha256 for file in theirs.files]
