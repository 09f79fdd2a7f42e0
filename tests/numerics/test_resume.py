"""A run that was stopped and started again is the run that was never stopped.

On other numbers of ranks and under the other engine it goes on in rows of the matrix of faults.
"""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pretrain.backends.carried import BackendName
from pretrain.checkpoint.manifest import MANIFEST_NAME, sha256_of
from tests.numerics.outcome import relative
from tests.numerics.runs import STEPS, Ending, Start, newest, prepare, records, start
from tests.worlds import run_ranks

HALF = STEPS // 2
STOP = f"train.stop_at_step={HALF}"
NO_DROPOUT = "model.dropout=0.0"
ENGINES: tuple[tuple[BackendName, str], ...] = (
    ("deepspeed", "zero2"),
    ("fsdp", "zero3"),
    ("deepspeed", "zero1_bf16"),
    ("fsdp", "zero2_bf16"),
    # ZeRO-3 last: it replaces torch.nn.functional.linear, for the whole process, by one that rounds otherwise.
    ("deepspeed", "zero3_bf16"),
)
STRIPPED = ENGINES[:2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two worlds: whole and stopped runs, and their continuations in new processes."""
    path = tmp_path_factory.mktemp("resume")
    prepare(path)
    first = []
    for backend, engine in ENGINES:
        whole = Start(path / f"{backend}-{engine}", backend, engine)
        first += [whole, Start(path / f"{backend}-{engine}-stopped", backend, engine, (STOP,))]
    first.append(Start(path / "no-dropout", "deepspeed", "zero3", (NO_DROPOUT, "train.stop_at_step=1")))
    stopped = Ending(75, f"Stopped by train.stop_at_step after step {HALF}, saved; start again to continue.")
    endings = run_ranks(start, 2, path, first, timeout=240.0)[0]
    assert endings[:-1] == [Ending(0), stopped] * 5 and endings[-1].exit_code == 75
    for backend, engine in STRIPPED:
        name = f"{backend}-{engine}"
        strip_moments(shutil.copytree(path / f"{name}-stopped", path / f"{name}-stripped"))
    second = [Start(path / f"{b}-{e}-stripped", b, e) for b, e in STRIPPED]
    second += [Start(path / f"{b}-{e}-stopped", b, e) for b, e in ENGINES]
    assert run_ranks(start, 2, path, second, timeout=240.0)[0] == [Ending(0)] * 7
    return path


def strip_moments(output: Path) -> None:
    """Sets all moments to zero, in a checkpoint that is whole in every other way."""
    checkpoint, manifest = newest(output)
    files = []
    for file in manifest.files:
        path = checkpoint / file.name
        tensors = load_file(path)
        save_file(
            {k: v if k.startswith("master:") else torch.zeros_like(v) for k, v in tensors.items()}, path
        )
        files.append(file.model_copy(update={"sha256": sha256_of(path), "bytes": path.stat().st_size}))
    stripped = manifest.model_copy(update={"files": files})
    (checkpoint / MANIFEST_NAME).write_bytes(stripped.as_bytes())


@pytest.mark.parametrize(("backend", "engine"), ENGINES)
def test_goes_on_bit_for_bit(folder: Path, backend: str, engine: str) -> None:
    whole, resumed = folder / f"{backend}-{engine}", folder / f"{backend}-{engine}-stopped"
    assert [record["step"] for record in records(whole)] == list(range(1, STEPS + 1))
    assert records(resumed) == records(whole)
    assert [record["step"] for record in records(whole, "eval.jsonl")] == [6, 12, 18, STEPS]
    assert records(resumed, "eval.jsonl") == records(whole, "eval.jsonl")
    # Master weights and moments of both ranks, by their checksums.
    (path, ours), (_, theirs) = newest(resumed), newest(whole)
    assert path.name == f"step-{STEPS:08d}"
    assert [file.sha256 for file in ours.files] == [file.sha256 for file in theirs.files]
    assert ours.state.cursor == theirs.state.cursor
    assert sha256_of(resumed / "model/model.safetensors") == sha256_of(whole / "model/model.safetensors")


@pytest.mark.parametrize(("backend", "engine"), STRIPPED)
def test_without_moments_it_does_not(folder: Path, backend: str, engine: str) -> None:
    name = f"{backend}-{engine}"
    whole, stripped = records(folder / name), records(folder / f"{name}-stripped")
    # The weights are there, so that the first step's loss is the same, and no other is.
    assert stripped[: HALF + 1] == whole[: HALF + 1]
    for ours, theirs in zip(stripped[HALF + 1 :], whole[HALF + 1 :], strict=True):
        assert ours["cursor"] == theirs["cursor"]
        assert ours["loss"] != theirs["loss"]
    losses = [[record["loss"] for record in each[HALF + 1 :]] for each in (whole, stripped)]
    assert relative(*losses) > 1e-3
    (_, after), (_, before) = newest(folder / f"{name}-stripped"), newest(folder / name)
    assert [file.sha256 for file in after.files] != [file.sha256 for file in before.files]


def test_dropout_was_on(folder: Path) -> None:
    with_dropout, without = records(folder / "deepspeed-zero2"), records(folder / "no-dropout")
    assert with_dropout[0]["cursor"] == without[0]["cursor"]
    assert abs(with_dropout[0]["loss"] - without[0]["loss"]) > 1e-3


def test_keeps_the_last_checkpoints(folder: Path) -> None:
    for run in ("deepspeed-zero2", "deepspeed-zero2-stopped"):
        found = sorted(path.name for path in (folder / run / "checkpoints").iterdir())
        assert found == ["latest", "step-00000015", "step-00000020"]
