"""A run that ends by validation: the same end however often it was stopped, and the model is the one that was best."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from pretrain.checkpoint import find_best
from pretrain.checkpoint.manifest import CheckpointManifest, sha256_of
from tests.numerics.runs import Ending, Start, newest, prepare, records, start
from tests.worlds import run_ranks

pytestmark = pytest.mark.slow
# So high a rate that validation soon goes up and down.
EARLY = ("optimizer.lr=0.2", "eval.every=1", "eval.patience=3", "checkpoint.every=5", "checkpoint.keep=1")
STOPS = (4, 6)
NAMES = ("whole", "stopped", "longer")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("best")
    prepare(path)
    starts = [Start(path / "whole", "fsdp", "zero2", EARLY)]
    for step in STOPS:
        starts.append(Start(path / "stopped", "fsdp", "zero2", (*EARLY, f"train.stop_at_step={step}")))
    starts.append(Start(path / "stopped", "fsdp", "zero2", EARLY))
    starts.append(
        Start(path / "longer", "fsdp", "zero2", (*EARLY, "eval.patience=9", "checkpoint.keep_every=3"))
    )
    for name, every in (("never", 0), ("always", 1)):
        often = ("train.steps=8", f"checkpoint.every={every}")
        starts.append(Start(path / name, "fsdp", "zero2", often))
    endings = run_ranks(start, 2, path, starts, timeout=240.0)
    assert endings[0] == endings[1]
    assert [each.exit_code for each in endings[0]] == [0, 75, 75, 0, 0, 0, 0], endings[0]
    assert endings[0][0] == Ending(0)
    return path


def losses(run: Path) -> list[float]:
    return [record["mlm_loss"] for record in records(run, "eval.jsonl")]


def best_by_hand(run: Path) -> int:
    """The step of the lowest loss; the first of equals."""
    by_step = {record["step"]: record["mlm_loss"] for record in records(run, "eval.jsonl")}
    return min(by_step, key=lambda step: (by_step[step], step))


def test_ends_after_so_many_without_improvement(folder: Path) -> None:
    found = losses(folder / "whole")
    best = found.index(min(found))
    assert len(found) == best + 1 + 3 < 20
    assert newest(folder / "whole")[1].state.step == len(found)
    assert losses(folder / "longer")[: len(found)] == found
    # The end validates the last weights again, with the context shuffled too; that line is the one that stays.
    shuffled = [record["shuffled_mask_only_loss"] for record in records(folder / "whole", "eval.jsonl")]
    assert shuffled[-1] is not None and set(shuffled[:-1]) == {None}


def test_stopped_in_between_it_is_the_same_run(folder: Path) -> None:
    whole, stopped = folder / "whole", folder / "stopped"
    assert len(records(whole)) > max(STOPS)
    for name in ("metrics.jsonl", "eval.jsonl"):
        assert records(stopped, name) == records(whole, name)
    (_, ours), (_, theirs) = newest(stopped), newest(whole)
    assert [file.sha256 for file in ours.files] == [file.sha256 for file in theirs.files]
    assert ours.state.validations == theirs.state.validations
    assert sha256_of(stopped / "model/model.safetensors") == sha256_of(whole / "model/model.safetensors")


def test_saving_changes_nothing_of_the_course(folder: Path) -> None:
    """The steps go on while each of them is written."""
    never, always = folder / "never", folder / "always"
    assert records(always) == records(never)
    (_, ours), (_, theirs) = newest(always), newest(never)
    assert [file.sha256 for file in ours.files] == [file.sha256 for file in theirs.files]


@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_the_best_one(folder: Path, name: str) -> None:
    run = folder / name
    best = find_best(run / "checkpoints")
    assert best is not None and best.name == f"step-{best_by_hand(run):08d}"
    manifest, model = CheckpointManifest.read(best), load_file(run / "model/model.safetensors")
    assert manifest.state.validations is not None
    assert manifest.state.validations.best_loss == min(losses(run))
    compared = 0
    for file in manifest.files:
        tensors = load_file(best / file.name)
        for piece in file.slices:
            if piece.parameter in model:
                saved = tensors[f"master:{piece.parameter}:{piece.start}"]
                exported = model[piece.parameter].flatten()[piece.start : piece.start + piece.numel]
                assert exported.equal(saved)
                compared += 1
    assert compared > 20


@pytest.mark.parametrize("name", NAMES)
def test_what_stays(folder: Path, name: str) -> None:
    path, manifest = newest(folder / name)
    validated = losses(folder / name)[:-1]
    last = manifest.state.step
    bests = {step for step, loss in enumerate(validated, 1) if loss == min(validated[:step])}
    saved = bests | set(range(5, last, 5)) | {last}
    expected = {best_by_hand(folder / name), last}
    if name == "longer":
        expected |= {step for step in saved if step % 3 == 0}
        assert 3 in expected
    assert {int(each.name.removeprefix("step-")) for each in path.parent.glob("step-*")} == expected
