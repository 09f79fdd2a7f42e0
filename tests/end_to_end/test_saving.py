"""A run that ended by validation, as a user meets it."""

from pathlib import Path

import pytest

from pretrain.faults.tiny import write_tiny_store
from tests.end_to_end.runs import error_of, pretrain, steps_of, write_model

pytestmark = pytest.mark.slow


@pytest.fixture
def options(tmp_path: Path) -> tuple[str, ...]:
    write_tiny_store(tmp_path / "store", 60)
    model = write_model(tmp_path / "tiny.json")
    shape = ("data.seq_len=32", "train.global_batch=2", "eval.rows=2", "log.every=1")
    return ("--data", "store", "--backend", "fsdp", f"model.config={model}", *shape)


def test_a_run_that_ended_by_validation_is_finished_until_it_gets_more_patience(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    patient = (*options, "--output", "run", "train.steps=50", "eval.every=1", "eval.min_improvement=9")
    ended = pretrain(*patient, "eval.patience=3", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "Done: 4 steps, by eval.patience." in ended.stdout
    assert steps_of(tmp_path / "run") == [1, 2, 3, 4]
    again = pretrain(*patient, "eval.patience=3", cwd=tmp_path)
    assert again.returncode == 0 and "is finished: 4 steps" in again.stdout
    more = pretrain(*patient, "eval.patience=5", cwd=tmp_path)
    assert "Done: 6 steps, by eval.patience." in more.stdout, more.stderr
    assert "step-00000004 after step 4, bit for bit" in more.stdout
    assert steps_of(tmp_path / "run") == [1, 2, 3, 4, 5, 6]


def test_what_was_trained_again_is_exported_again(tmp_path: Path, options: tuple[str, ...]) -> None:
    """From a step that was left, and stopped in between: nobody takes the first model for the second's."""
    run = tmp_path / "run"
    options = (*options, "--output", "run", "train.steps=4", "checkpoint.every=2")
    assert pretrain(*options, cwd=tmp_path).returncode == 0
    first, weights = (run / "finished").read_text(), (run / "model/model.safetensors").read_bytes()
    other = (*options, "optimizer.lr=0.5")
    stopped = pretrain(
        *other, "--resume", "run/checkpoints/step-00000002", "train.stop_at_step=3", cwd=tmp_path
    )
    assert stopped.returncode == 75 and "set aside: run/checkpoints/step-00000004.left" in stopped.stdout
    assert not (run / "finished").exists()
    assert pretrain(*other, cwd=tmp_path).returncode == 0
    assert (run / "finished").read_text() == first
    assert (run / "model/model.safetensors").read_bytes() != weights


def test_the_best_needs_held_out_text(tmp_path: Path, options: tuple[str, ...]) -> None:
    write_tiny_store(tmp_path / "store-without", 7)
    result = pretrain(
        *options,
        "--data",
        "store-without",
        "--output",
        "run",
        "eval.every=1",
        "checkpoint.best=true",
        cwd=tmp_path,
    )
    assert result.returncode == 2
    assert "held-out split has too few documents" in error_of(result.stderr)
