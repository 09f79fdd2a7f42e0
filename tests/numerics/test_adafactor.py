"""Two ranks under every engine and stage, offloaded too: Adafactor takes the same steps, and goes on after a stop."""

from pathlib import Path

import pytest

from pretrain.backends.carried import BackendName
from tests.numerics.outcome import relative
from tests.numerics.runs import ENGINES, Start, newest, prepare, records, start
from tests.worlds import run_ranks

pytestmark = pytest.mark.slow
TOLERANCE = 2e-6
RECIPE = (
    "optimizer.name=adafactor",
    "optimizer.lr=0.03",
    "train.steps=8",
    "eval.every=0",
    "checkpoint.every=0",
)
WITHOUT_DROPOUT = (*RECIPE, "model.dropout=0.0")


# The stages of the sample are those whose slices differ most: of flat partitions, of sub-groups, of rows.
SAMPLE = (("fsdp", 0), ("fsdp", 3), ("deepspeed", 2))
MOVED = ("changed", "fsdp-offload", "deepspeed-offload")


def engines(in_full: bool) -> list[tuple[BackendName, int]]:
    return [engine for engine in ENGINES if in_full or engine in SAMPLE]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "name" in metafunc.fixturenames:
        names = [f"{backend}-{stage}" for backend, stage in engines(metafunc.config.getoption("--in-full"))]
        metafunc.parametrize("name", [*names, *MOVED])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, in_full: bool) -> Path:
    path = tmp_path_factory.mktemp("adafactor")
    prepare(path)
    whole = [
        Start(path / f"{backend}-{stage}", backend, f"zero{stage}", WITHOUT_DROPOUT)
        for backend, stage in engines(in_full)
    ]
    whole.append(Start(path / "fsdp-offload", "fsdp", "zero3_offload", WITHOUT_DROPOUT))
    stop = ("train.stop_at_step=3",)
    stopped = [
        Start(path / "stopped", "deepspeed", "zero2", WITHOUT_DROPOUT + stop),
        Start(path / "stopped", "deepspeed", "zero2", WITHOUT_DROPOUT),
        Start(path / "changed", "deepspeed", "zero3", WITHOUT_DROPOUT + stop),
        Start(path / "changed", "fsdp", "zero2", WITHOUT_DROPOUT),
    ]
    last = Start(path / "deepspeed-offload", "deepspeed", "zero3_offload", WITHOUT_DROPOUT)
    endings = run_ranks(start, 2, path, [*whole, *stopped, last], timeout=240.0)[0]
    codes = [*(0 for _ in whole), 75, 0, 75, 0, 0]
    assert [ending.exit_code for ending in endings] == codes, endings
    return path


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
