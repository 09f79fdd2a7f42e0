"""The gradient noise scale beside gradients of one row after another; and measuring it changes no bit of a run."""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pretrain.backends.carried import BackendName
from pretrain.build import build_encoder, row_stream, sampling_options
from pretrain.config import resolve
from pretrain.data.order import Cursor
from pretrain.data.store import TokenStore
from pretrain.rng import key
from tests.numerics.outcome import relative
from tests.numerics.runs import Ending, Start, newest, prepare, records, start
from tests.worlds import run_ranks

pytestmark = pytest.mark.slow

SEED = 5  # of the recipe of all runs
EVERY, HALF = "log.noise_every=2", 9
# DeepSpeed's stage 3 last: it replaces torch.nn.functional.linear, for the whole process, by one that rounds otherwise.
ALL: tuple[tuple[BackendName, str], ...] = (
    *(("fsdp", f"zero{stage}{half}") for stage in range(4) for half in ("", "_bf16")),
    ("fsdp", "zero3_offload"),
    ("fsdp", "fp16"),
    *(("deepspeed", f"zero{stage}{half}") for stage in (1, 2) for half in ("", "_bf16")),
    ("deepspeed", "zero0"),
    ("deepspeed", "zero2_offload"),
    ("deepspeed", "zero3"),
    ("deepspeed", "zero3_bf16"),
    ("deepspeed", "sub_groups"),
    ("deepspeed", "zero3_offload"),
    ("deepspeed", "zero0_bf16"),  # whose autocast stays switched on
)
SAMPLE = (
    *(("fsdp", name) for name in ("fp16", "zero3")),
    *(("deepspeed", name) for name in ("zero2", "sub_groups")),
)
# Stands still, so that all steps' gradients are drawn from one distribution.
STEPS, FEW_STEPS, ROWS = 20, 3, 32
STILL = (
    *("optimizer.lr=1e-12", "schedule.warmup=1", "model.dropout=0.0", "log.noise_every=1"),
    f"train.global_batch={ROWS}",
)
STILL_RUNS: tuple[tuple[BackendName, str, int], ...] = (("fsdp", "zero2", 4), ("deepspeed", "zero2", 16))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("noise")
    prepare(path)
    (path / "sub_groups.json").write_text(
        '{"zero_optimization": {"stage": 3, "sub_group_size": 5000, "stage3_param_persistence_threshold": 100}}'
    )
    # Overflows at first, so that a measurement meets a scale that is too high.
    (path / "fp16.json").write_text(
        '{"zero_optimization": {"stage": 2}, "fp16": {"enabled": true, "initial_scale_power": 24, "hysteresis": 1}}'
    )
    return path


@pytest.fixture(scope="module")
def engines(folder: Path, in_full: bool) -> list[tuple[BackendName, str]]:
    """Each of them with and without measurements."""
    chosen: list[tuple[Any, str]] = list(ALL if in_full else SAMPLE)
    starts = [
        Start(folder / f"{backend}-{name}-{how}", backend, name, overrides)
        for backend, name in chosen
        for how, overrides in (("off", ()), ("on", (EVERY,)))
    ]
    endings = run_ranks(start, 2, folder, starts, timeout=900.0)[0]
    assert endings == [Ending(0)] * len(starts)
    return chosen


def without_noise(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in record.items() if not name.startswith("noise")} for record in found
    ]


def test_measuring_changes_no_bit(folder: Path, engines: list[tuple[BackendName, str]]) -> None:
    for backend, name in engines:
        plain, measured = (folder / f"{backend}-{name}-{how}" for how in ("off", "on"))
        ours, theirs = records(measured), records(plain)
        assert without_noise(ours) == theirs, name
        assert not any("noise_scale" in record for record in theirs)
        (_, one), (_, other) = newest(measured), newest(plain)
        assert [file.sha256 for file in one.files] == [file.sha256 for file in other.files], name
        assert records(measured, "eval.jsonl") == records(plain, "eval.jsonl")


def test_there_is_a_measurement_of_every_second_step(
    folder: Path, engines: list[tuple[BackendName, str]]
) -> None:
    """Where the engine computes in fp32 they agree, however it cuts; fp16's first steps overflow and have none."""
    norms = {}
    for backend, name in engines:
        found = records(folder / f"{backend}-{name}-on")
        due = [record for record in found if record["step"] % 2 == 0 and not record["skipped"]]
        assert [record for record in found if "noise_scale" in record] == due
        assert name == "fp16" or len(due) == len(found) // 2
        assert due
        assert all(record["noise_small_batch"] == 2 for record in due)
        averages = newest(folder / f"{backend}-{name}-on")[1].state.noise
        assert averages is not None and averages.measurements == len(due)
        norms[backend, name] = [record["noise_small_grad_norm"] for record in due]
    exact = [found for (_, name), found in norms.items() if "16" not in name]
    assert len(exact) > 2
    assert all(relative(exact[0], each) < 1e-4 for each in exact)
    assert any(record["skipped"] for record in records(folder / "fsdp-fp16-on"))


def test_goes_on_bit_for_bit(folder: Path, engines: list[tuple[BackendName, str]]) -> None:
    """Stopped between two measurements, and gone on with in new processes."""
    whole, stopped = folder / "deepspeed-zero2-on", folder / "stopped"
    stop = (EVERY, f"train.stop_at_step={HALF}")
    (first,) = run_ranks(start, 2, folder, [Start(stopped, "deepspeed", "zero2", stop)], timeout=240.0)[0]
    assert first.exit_code == 75
    rest = Start(stopped, "deepspeed", "zero2", (EVERY,))
    assert run_ranks(start, 2, folder, [rest], timeout=240.0)[0] == [Ending(0)]
    ours, theirs = records(stopped), records(whole)
    assert [r.get("noise_scale") for r in ours] == [r.get("noise_scale") for r in theirs]
    assert ours == theirs
    assert newest(stopped)[1].state.noise == newest(whole)[1].state.noise


@dataclass(frozen=True)
class RowGradient:
    """Of one row's summed losses, float64 [all weights], and how many terms the sums have."""

    mlm: np.ndarray
    nsp: np.ndarray
    masked: int
    pairs: int


def mean_gradient(rows: list[RowGradient]) -> np.ndarray:
    """Of the mean over the masked tokens and that over the pairs of these rows."""
    masked, pairs = sum(row.masked for row in rows), sum(row.pairs for row in rows)
    return np.sum([row.mlm for row in rows], 0) / masked + np.sum([row.nsp for row in rows], 0) / pairs


@pytest.fixture(scope="module")
def steps(in_full: bool) -> int:
    """Of the runs that stand still; estimates need many."""
    return STEPS if in_full else FEW_STEPS


@pytest.fixture(scope="module")
def row_gradients(folder: Path, steps: int) -> list[RowGradient]:
    """All rows of a run that stands still, one by one, by plain autograd in one process."""
    recipe = resolve(
        recipe_path=folder / "recipe.toml",
        default_recipe=folder / "recipe.toml",
        ds_config_path=None,
        overrides=STILL,
        world_size=1,
    ).recipe
    store = TokenStore.open(folder / "store")
    model = build_encoder(recipe, store).double().eval()
    weights = list(model.encoder.parameters())
    rows = row_stream(store, "train", sampling_options(recipe), SEED).step(Cursor(0, 0, 0), ROWS * steps)
    found = []
    for index in range(ROWS * steps):
        batch = rows.batch(index, 1)
        flat = []
        for loss in model(batch):
            gradients = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
            pieces = [
                torch.zeros_like(weight) if gradient is None else gradient
                for weight, gradient in zip(weights, gradients, strict=True)
            ]
            flat.append(torch.cat([piece.flatten() for piece in pieces]).numpy())
        masked, pairs = (int((labels >= 0).sum()) for labels in (batch.masked_labels, batch.nsp_labels))
        found.append(RowGradient(flat[0], flat[1], masked, pairs))
    return found


@pytest.fixture(scope="module")
def still(folder: Path, steps: int) -> Callable[[BackendName], list[dict[str, Any]]]:
    """The records of the runs that stand still; with 16 rows in a micro-batch a step has but one on each rank."""
    starts = [
        Start(
            folder / f"still-{backend}",
            backend,
            name,
            (*STILL, f"train.steps={steps}", f"train.micro_batch={micro_batch}"),
        )
        for backend, name, micro_batch in STILL_RUNS
    ]
    assert run_ranks(start, 2, folder, starts, timeout=400.0)[0] == [Ending(0)] * len(starts)
    return lambda backend: records(folder / f"still-{backend}")


@pytest.mark.parametrize(("backend", "engine", "micro_batch"), STILL_RUNS)
def test_norms_are_those_of_the_rows_own_gradients(
    row_gradients: list[RowGradient], still: Any, backend: BackendName, engine: str, micro_batch: int
) -> None:
    """The g-th micro-batch of rank k of two has the rows from (2 g + k) * micro_batch on."""
    for record in still(backend):
        rows = row_gradients[(record["step"] - 1) * ROWS :][:ROWS]
        part = key(SEED, "noise", record["step"]) % (ROWS // micro_batch)
        small = float(np.linalg.norm(mean_gradient(rows[part * micro_batch :][:micro_batch])))
        large = float(np.linalg.norm(mean_gradient(rows)))
        assert record["noise_small_batch"] == micro_batch
        assert record["grad_norm"] == pytest.approx(large, rel=1e-5)
        assert record["noise_small_grad_norm"] == pytest.approx(small, rel=1e-5)


@pytest.mark.parametrize(("backend", "engine", "micro_batch"), STILL_RUNS)
@pytest.mark.in_full("as many steps as an estimate needs")
def test_estimates_are_near_trace_and_gradient_of_the_rows(
    row_gradients: list[RowGradient], still: Any, backend: BackendName, engine: str, micro_batch: int
) -> None:
    """Within four standard errors. A mean over masked tokens moves by (g - m * G) / (mean of m) with a row that has m
    of them and whose losses' gradient is g; so does the one over pairs, and their covariance is that of the rows."""
    count = len(row_gradients)
    masked, pairs = (sum(getattr(r, name) for r in row_gradients) / count for name in ("masked", "pairs"))
    mlm, nsp = (np.mean([getattr(r, name) for r in row_gradients], 0) for name in ("mlm", "nsp"))
    moves = [
        (row.mlm - row.masked * mlm / masked) / masked + (row.nsp - row.pairs * nsp / pairs) / pairs
        for row in row_gradients
    ]
    trace = sum(float(move @ move) for move in moves) / (count - 1)
    gradient = mean_gradient(row_gradients)
    squared = float(gradient @ gradient) - trace / count
    found = still(backend)
    for name, expected in (("noise_trace", trace), ("noise_squared_gradient", squared)):
        values = [record[name] for record in found]
        mean, error = float(np.mean(values)), float(np.std(values)) / sqrt(len(values))
        print(f"{backend} {name}: {mean:.4g} +- {error:.2g}, by rows {expected:.4g}")
        assert abs(mean - expected) < 4 * error
        assert error < 0.25 * expected
    # Of the last record: the weighted mean over fewer measurements than there are.
    scale = found[-1]["noise_scale"]
    print(f"{backend} noise scale: {scale:.4g} rows, by rows {trace / squared:.4g}")
    assert scale == pytest.approx(trace / squared, rel=0.4)
    samples = found[-1]["samples"] / found[-1]["global_batch"]
    assert found[-1]["noise_scale_samples"] == pytest.approx(scale * samples)
