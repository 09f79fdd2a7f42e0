"""Every shipped ds_config gives the same curve under DeepSpeed and under FSDP."""

import shutil
from math import isfinite
from pathlib import Path

import pytest
import torch

from pretrain import comm
from pretrain.backends.carried import BackendName
from tests.numerics.deviations import LOSS
from tests.numerics.outcome import relative
from tests.numerics.runs import Start, prepare, records, start
from tests.worlds import ROOT, run_ranks

NAMES = sorted(path.stem for path in (ROOT / "ds_configs").glob("*.json"))
STEPS = 6
OVERRIDES = (f"train.steps={STEPS}", "schedule.warmup=2", "model.dropout=0.0", f"checkpoint.every={STEPS}")
BACKENDS: tuple[BackendName, ...] = ("fsdp", "deepspeed")
CPU = torch.device("cpu")
pytestmark = pytest.mark.slow


def precision(name: str) -> str:
    """What this machine makes of a config of this name."""
    said = name.rpartition("_")[2]
    if said in ("fp32", "bf16", "fp16"):
        return said
    return "bf16" if comm.has_fast_bf16(CPU) else "fp32"


def is_possible(backend: str, name: str) -> bool:
    return backend == "fsdp" or precision(name) != "fp16" or comm.has_native_fp16(CPU)


def in_one_process(name: str) -> tuple[bool, bool]:
    """Stage 0 in half precision leaves autocast switched on, stage 3 a linear layer of its own."""
    return name.startswith("zero0") and precision(name) != "fp32", name.startswith("zero3")


def engines(name: str, in_full: bool) -> list[BackendName]:
    """Both; of the sample one after the other."""
    possible = [backend for backend in BACKENDS if is_possible(backend, name)]
    return possible if in_full else [possible[NAMES.index(name) % len(possible)]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, in_full: bool) -> Path:
    path = tmp_path_factory.mktemp("shipped")
    prepare(path)
    for name in NAMES:
        shutil.copyfile(ROOT / "ds_configs" / f"{name}.json", path / f"{name}.json")
    starts = [Start(path / "reference", "fsdp", "zero0_fp32", OVERRIDES, "never")]
    for backend in BACKENDS:
        names = [name for name in sorted(NAMES, key=in_one_process) if backend in engines(name, in_full)]
        starts += [Start(path / f"{backend}-{name}", backend, name, OVERRIDES, "never") for name in names]
    endings = run_ranks(start, 2, path, starts, timeout=600.0)[0]
    assert {ending.exit_code for ending in endings} == {0}, endings
    return path


@pytest.mark.parametrize("name", NAMES)
def test_it_has_the_curve_of_a_run_without_sharding(folder: Path, in_full: bool, name: str) -> None:
    """In fp32 under FSDP: the curve of every config, under either engine, as near as its precision allows."""
    reference = [record["loss"] for record in records(folder / "reference")]
    for backend in engines(name, in_full):
        curve = [record["loss"] for record in records(folder / f"{backend}-{name}")]
        assert len(curve) == STEPS
        assert all(isfinite(loss) for loss in curve)
        found = relative(reference, curve)
        print(f"{backend}: {found:.1e}")
        assert found < (LOSS["fp32"] if precision(name) == "fp32" else LOSS["bf16"])


def test_the_sample_has_both_engines_at_every_stage() -> None:
    found = {(engine, name[:5]) for name in NAMES for engine in engines(name, False)}
    assert found == {(engine, f"zero{stage}") for engine in BACKENDS for stage in range(4)}
