"""With layers frozen: equal to one plain process that leaves them alone, and a run that stops goes on bit for bit."""

from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pretrain.backends.carried import BackendName
from tests.numerics.cells import SUB_GROUPS, Cell, in_one_process
from tests.numerics.conftest import Judge
from tests.numerics.courses import run_cells
from tests.numerics.deviations import FP32_NORM, FP32_WEIGHTS, LOSS
from tests.numerics.outcome import Outcome, deviation, relative
from tests.numerics.runs import STEPS, Start, newest, prepare, records, start
from tests.worlds import run_ranks

pytestmark = pytest.mark.slow
STEPS_OF_A_COURSE = 12
# From below, with the matrix of the MLM head, which is tied; and here and there, inside what is wrapped as one.
BOTTOM = ("bert.embeddings.*", "bert.encoder.layer.0.*")
SCATTERED = ("*.LayerNorm.*", "bert.encoder.layer.1.*.bias", "cls.predictions.bias", "bert.pooler.*")
SAMPLE = (
    Cell("fsdp", 3, checkpointing="full", frozen=BOTTOM),
    Cell("fsdp", 1, precision="bf16", frozen=SCATTERED),
    Cell("deepspeed", 2, packing=True, checkpointing="full", frozen=BOTTOM),
    Cell("deepspeed", 1, precision="bf16", frozen=SCATTERED),
    Cell("deepspeed", 3, zero=SUB_GROUPS, frozen=SCATTERED),
)
MORE = (
    Cell("fsdp", 0, frozen=BOTTOM),
    Cell("fsdp", 2, packing=True, optimizer="adamw", frozen=SCATTERED),
    Cell("fsdp", 3, offload="everything", frozen=BOTTOM),
    Cell("fsdp", 3, compile=True, frozen=BOTTOM),
    Cell("deepspeed", 0, frozen=SCATTERED),
    Cell("deepspeed", 2, 1, frozen=SCATTERED),
    Cell("deepspeed", 3, precision="bf16", offload="everything", checkpointing="full", frozen=BOTTOM),
    Cell("deepspeed", 3, 4, checkpointing=2, frozen=BOTTOM),
    Cell("deepspeed", 0, precision="bf16", frozen=BOTTOM),
)

HALF = STEPS // 2
FROZEN = f"model.frozen={list(BOTTOM)}"
OTHERS = f"model.frozen={list(SCATTERED)}"
STOP = f"train.stop_at_step={HALF}"
ENGINES: tuple[tuple[BackendName, str], ...] = (
    ("fsdp", "zero2_bf16"),
    ("deepspeed", "zero2_bf16"),
    # Last: it replaces torch.nn.functional.linear for good.
    ("deepspeed", "zero3_bf16"),
)


@pytest.fixture(scope="module")
def outcomes(course_folder: Path, in_full: bool) -> dict[Cell, Outcome]:
    cells = sorted((*SAMPLE, *MORE) if in_full else SAMPLE, key=in_one_process)
    return run_cells(course_folder, cells, STEPS_OF_A_COURSE, timeout=600.0)


def test_equals_one_plain_process_that_leaves_them_alone(outcomes: dict[Cell, Outcome], judge: Judge) -> None:
    for cell, outcome in outcomes.items():
        setting = cell.setting(STEPS_OF_A_COURSE)
        plain = judge(setting)
        found = deviation(plain, outcome)
        print(
            f"{cell}: loss {found.loss:.1e}, norm {found.grad_norm:.1e}, {found.weights[found.farthest]:.1e}"
        )
        assert found.loss < LOSS[cell.precision]
        if cell.precision == "fp32":
            assert found.grad_norm < FP32_NORM
            assert found.weights[found.farthest] < FP32_WEIGHTS, found.farthest
        # As they were, in every digit, whatever computes with them.
        fresh = judge(replace(setting, steps=0)).weights
        kept = [name for name, weight in fresh.items() if torch.equal(outcome.weights[name], weight)]
        assert kept == [name for name, weight in fresh.items() if torch.equal(plain.weights[name], weight)]
        assert 0 < len(kept) < len(fresh)
        # Not frozen, the same course is another one.
        free = judge(replace(setting, frozen=()))
        assert abs(free.grad_norms[0] - outcome.grad_norms[0]) > 1e-3 * free.grad_norms[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that trains everything, and phases after it that do not: in one start, in two, elsewhere."""
    path = tmp_path_factory.mktemp("frozen")
    prepare(path)
    after_one = (f"phase.checkpoint={path}/one", "schedule.warmup=3")
    first = [Start(path / "one", "fsdp", "zero2", ("train.steps=6",))]
    for backend, engine in ENGINES:
        first += [
            Start(path / f"{backend}-{engine}", backend, engine, (FROZEN, *after_one)),
            Start(path / f"{backend}-{engine}-stopped", backend, engine, (FROZEN, *after_one, STOP)),
        ]
    plain = (FROZEN, *after_one, "model.dropout=0.0")
    first.insert(1, Start(path / "crossed", "fsdp", "zero3", plain))
    first.insert(2, Start(path / "crossed-stopped", "fsdp", "zero3", (*plain, STOP)))
    endings = run_ranks(start, 2, path, first, timeout=400.0)[0]
    assert [ending.exit_code for ending in endings] == [0, 0, 75, *[0, 75] * len(ENGINES)], endings
    begun = (f"phase.checkpoint={path}/fsdp-zero2_bf16", "train.steps=2", "schedule.warmup=1")
    second = [
        Start(path / "other-kept", "fsdp", "zero2", (*begun, OTHERS, "phase.moments=kept")),
        Start(
            path / "more-kept",
            "fsdp",
            "zero2",
            (*begun, f"model.frozen={[*BOTTOM, *SCATTERED]}", "phase.moments=kept"),
        ),
        Start(path / "crossed", "fsdp", "zero2", (OTHERS, *after_one, "train.steps=21", "model.dropout=0.0")),
        Start(path / "misspelt", "fsdp", "zero2", ("model.frozen=['bert.embedding.*']",)),
        *(Start(path / f"{b}-{e}-stopped", b, e, (FROZEN, *after_one)) for b, e in ENGINES[:2]),
        Start(path / "other-reset", "deepspeed", "zero1_bf16", (*begun, OTHERS)),
        Start(path / "crossed-stopped", "deepspeed", "zero3", plain),
        Start(path / "deepspeed-zero3_bf16-stopped", "deepspeed", "zero3_bf16", (FROZEN, *after_one)),
    ]
    endings = run_ranks(start, 2, path, second, timeout=400.0)[0]
    assert [ending.exit_code for ending in endings] == [2, 0, 2, 2, 0, 0, 0, 0, 0], endings
    assert "has no moments of bert.e" in endings[0].message and "phase.moments=reset" in endings[0].message
    assert (
        "was made with bert.embeddings.position_embeddings.weight frozen, this run has it trained"
        in endings[2].message
    )
    assert (
        "no parameter's name matches 'bert.embedding.*'; the nearest are bert.embeddings.*"
        in endings[3].message
    )
    return path


def exported(run: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(run / "model" / "model.safetensors"))


def is_matched(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


@pytest.mark.parametrize(("backend", "engine"), ENGINES)
def test_frozen_parameters_are_those_of_the_first_phase_in_every_digit(
    folder: Path, backend: str, engine: str
) -> None:
    """fp32 ones, although what computed had 8 bits: and a stop in between loses none."""
    before = exported(folder / "one")
    for run in (f"{backend}-{engine}", f"{backend}-{engine}-stopped"):
        after = exported(folder / run)
        assert after.keys() == before.keys()
        same = {name for name in before if torch.equal(before[name], after[name])}
        assert same == {name for name in before if is_matched(name, BOTTOM)}
        assert not any(
            torch.equal(before[name], before[name].bfloat16().float()) for name in same if "Norm" not in name
        )


@pytest.mark.parametrize(("backend", "engine"), ENGINES)
def test_goes_on_bit_for_bit(folder: Path, backend: str, engine: str) -> None:
    whole, resumed = folder / f"{backend}-{engine}", folder / f"{backend}-{engine}-stopped"
    assert records(resumed) == records(whole)
    assert records(resumed, "eval.jsonl") == records(whole, "eval.jsonl")
    (_, ours), (_, theirs) = newest(resumed), newest(whole)
    assert [file.sha256 for file in ours.files] == [file.sha256 for file in theirs.files]
    assert ours.frozen == theirs.frozen == [name for name in ours.parameters if is_matched(name, BOTTOM)]


def test_computes_with_the_frozen_weights_it_was_given(folder: Path) -> None:
    """The first loss of the second phase is near the last of the first, and far from that of fresh weights."""
    first = records(folder / "one")
    for backend, engine in ENGINES:
        begun = records(folder / f"{backend}-{engine}")[0]["mlm_loss"]
        assert begun < first[0]["mlm_loss"] - 0.3


def test_goes_on_under_the_other_engine(folder: Path) -> None:
    whole, crossed = records(folder / "crossed"), records(folder / "crossed-stopped")
    for key in ("loss", "grad_norm"):
        found = relative([record[key] for record in whole], [record[key] for record in crossed])
        print(f"{key}: {found:.1e}")
        assert found < 1e-6, key


def test_a_phase_may_freeze_others(folder: Path) -> None:
    before, others, more = (exported(folder / run) for run in ("fsdp-zero2_bf16", "other-reset", "more-kept"))
    for after, patterns in ((others, SCATTERED), (more, (*BOTTOM, *SCATTERED))):
        same = {name for name in before if torch.equal(before[name], after[name])}
        assert same == {name for name in before if is_matched(name, patterns)}
    _, manifest = newest(folder / "other-reset")
    assert manifest.frozen and all(is_matched(name, SCATTERED) for name in manifest.frozen)


def test_nothing_of_frozen_parameters_is_kept_but_their_weights(folder: Path) -> None:
    """4 bytes each in a checkpoint, and 12 of every other, besides the headers."""
    path, manifest = newest(folder / "deepspeed-zero3_bf16")
    held: dict[str, int] = {}
    for file in manifest.files:
        for key, values in load_file(path / file.name).items():
            name = key.split(":")[1]
            held[name] = held.get(name, 0) + 4 * values.numel()
    for name, shape in manifest.parameters.items():
        assert held[name] == (4 if name in manifest.frozen else 12) * torch.Size(shape).numel(), name
