"""Where the run begins, on a checkpoint of a real run: gone, damaged, of another course, or not to go on."""

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from pretrain.doctor.beginning import check_checkpoint
from pretrain.doctor.finding import Finding
from pretrain.faults.damage import flip
from tests.checkpoint.saved import OLD
from tests.command.runs import STORE, command
from tests.doctor.heres import make_here, only


@pytest.fixture
def typed(tmp_path: Path) -> tuple[str, ...]:
    """The course of the checkpoint, in so far as the demo's recipe is another."""
    state = json.loads((OLD / "manifest.json").read_text())["state"]
    (tmp_path / "model.json").write_text(state["model_config_json"])
    sampling = {name: str(value).lower() for name, value in state["sampling"].items() if name != "objective"}
    data = [f"data.{name}={value}" for name, value in sampling.items()]
    return (f"model.config={tmp_path / 'model.json'}", "seed=5", "data.objective=nsp", *data)


def run_with(folder: Path, *steps: int) -> Path:
    """A run folder with copies of the checkpoint, the last of which is the latest."""
    for step in steps:
        copy = Path(shutil.copytree(OLD, folder / "checkpoints" / f"step-{step:08d}"))
        manifest = json.loads((copy / "manifest.json").read_text())
        manifest["state"]["step"] = step
        (copy / "manifest.json").write_text(json.dumps(manifest))
    (folder / "checkpoints" / "latest").write_text(f"step-{steps[-1]:08d}\n")
    return folder


def found_of(output: Path, *typed: str, resume: str = "auto") -> Iterator[Finding]:
    return check_checkpoint(make_here(output, *typed, resume=resume))


def test_nothing_there(tmp_path: Path) -> None:
    only(found_of(tmp_path / "run"), "ok", "begins at step 0")
    only(found_of(tmp_path / "run", resume="never"), "ok", "begins at step 0")


def test_what_a_run_goes_on_from(tmp_path: Path, typed: tuple[str, ...]) -> None:
    run = run_with(tmp_path / "run", 2, 3)
    latest = run / "checkpoints" / "step-00000003"
    only(
        found_of(run, *typed),
        "ok",
        f"goes on from {latest}, step 3: 2 file(s), ",
        "every element accounted for",
    )
    older = str(run / "checkpoints" / "step-00000002")
    only(found_of(run, *typed, resume=older), "ok", f"goes on from {older}, step 2")
    only(found_of(tmp_path / "new", *typed, resume=older), "ok", f"goes on from {older}, step 2")
    for refused in ("never", str(OLD)):
        parts = ("already holds a run (step-00000003)", f"leave out --resume {refused}")
        only(found_of(run, *typed, resume=refused), "failed", *parts)


def test_what_is_not_there(tmp_path: Path) -> None:
    named = tmp_path / "NOTHERE"
    only(
        found_of(tmp_path / "run", f"phase.checkpoint={named}"),
        "failed",
        f"phase.checkpoint: {named} is not a folder",
    )
    only(found_of(tmp_path / "run", resume=str(named)), "failed", f"--resume: {named} is not a folder")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "latest").write_text("step-00000009")
    found = only(found_of(tmp_path / "run"), "failed", "latest names 'step-00000009', which is not there")
    assert found.is_damage


def test_what_is_damaged(tmp_path: Path, typed: tuple[str, ...]) -> None:
    run = run_with(tmp_path / "run", 2, 3)
    file = run / "checkpoints" / "step-00000003" / "rank-00001.safetensors"
    with file.open("r+b") as content:
        content.truncate(file.stat().st_size - 1)
    found = only(found_of(run, *typed), "failed", "rank-00001.safetensors", "The checkpoint is damaged")
    assert found.is_damage
    parts = (
        "The checkpoint is damaged",
        "By checkpoint.fall_back the run goes on from",
        "step-00000002, step 2",
    )
    only(found_of(run, *typed, "checkpoint.fall_back=true"), "warning", *parts)
    flip(run / "checkpoints" / "step-00000002" / "manifest.json", 1)
    only(found_of(run, *typed, "checkpoint.fall_back=true"), "failed", "No older checkpoint in", "is whole")


@pytest.mark.parametrize(
    ("other", "said", "is_damage"),
    [
        ("seed=6", "was made with seed = 5, this run has 6", False),
        ("data.mask_probability=0.2", "data.mask_probability = 0.15, this run has 0.2", False),
        ("train.steps=2", "is at step 3, beyond train.steps = 2", False),
        ("optimizer.name=sgd", "holds no momentum", True),
    ],
)
def test_what_is_of_another_course(
    tmp_path: Path, typed: tuple[str, ...], other: str, said: str, is_damage: bool
) -> None:
    run = run_with(tmp_path / "run", 3)
    key = other.partition("=")[0]
    changed = [each for each in typed if not each.startswith(f"{key}=")]
    found = only(found_of(run, *changed, other), "failed", said)
    assert found.is_damage == is_damage


def test_the_weights_that_a_phase_begins_with(tmp_path: Path, typed: tuple[str, ...]) -> None:
    """Of a run its latest; another seed and optimizer are no matter, another model is."""
    run = run_with(tmp_path / "one", 2, 3)
    free = [each for each in typed if not each.startswith("seed=")]
    phase = f"phase.checkpoint={run}"
    begins = f"begins with the weights of {run / 'checkpoints' / 'step-00000003'}, step 3"
    only(found_of(tmp_path / "two", *free, "optimizer.name=sgd", phase), "ok", begins)
    kept = (*free, "optimizer.name=sgd", "phase.moments=kept", phase)
    only(found_of(tmp_path / "two", *kept), "failed", "holds no momentum")
    only(found_of(tmp_path / "two", phase), "failed", "is of another model: parameter ")


def test_the_command_takes_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    doctor = partial(
        command, "doctor", "--data", STORE, "--output", tmp_path / "run", "model.preset=bert-tiny"
    )
    assert doctor("--resume", "never", f"phase.checkpoint={tmp_path / 'NOTHERE'}") == 1
    (line,) = (each for each in capsys.readouterr().out.splitlines() if each.startswith("  failed"))
    assert line == (
        f"  failed   checkpoint: phase.checkpoint: {tmp_path / 'NOTHERE'} is not a folder; give that of a checkpoint."
    )
