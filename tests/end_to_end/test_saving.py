"""Checkpoints as a user meets them: a disk that is full, and a run that ended by validation."""

import ctypes
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.runs import error_of, launcher, pretrain, steps_of, write_model
from tests.tiny_store import write_tiny_store

DISK_BYTES = 1 << 21
pytestmark = pytest.mark.slow


@pytest.fixture
def options(tmp_path: Path) -> tuple[str, ...]:
    write_tiny_store(tmp_path / "store", 60)
    # Three checkpoints of this model do not fit on the small disk, and one does.
    model = write_model(tmp_path / "tiny.json", hidden_size=64, intermediate_size=128)
    shape = ("data.seq_len=32", "train.global_batch=2", "eval.rows=2", "log.every=1")
    return ("--data", "store", "--backend", "fsdp", f"model.config={model}", *shape)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    size = f"size={DISK_BYTES}"
    if (
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", path], capture_output=True).returncode
        != 0
    ):
        pytest.skip("this machine lets nobody mount a tmpfs")
    yield path
    ctypes.CDLL(None).umount2(os.fsencode(path), 2)


def test_a_disk_without_room_ends_all_ranks_and_room_lets_them_go_on(
    tmp_path: Path, options: tuple[str, ...], small_disk: Path
) -> None:
    run = small_disk / "run"
    often = (*options, "--output", str(run), "train.steps=9", "checkpoint.every=2", "checkpoint.keep=9")
    full = launcher("deepspeed", *often, cwd=tmp_path)
    assert full.returncode == 1
    sentence = error_of(full.stderr)
    found = re.search(r"\(.*?: ([\d,]+) bytes needed, ([\d,]+) free\); the previous one is whole", sentence)
    assert found is not None, sentence
    needed, free = (int(each.replace(",", "")) for each in found.groups())
    assert free < needed < DISK_BYTES and str(run / "checkpoints") in sentence
    saved = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert len(saved) > 1 and saved[0] == "latest" and all(each.startswith("step-") for each in saved[1:])
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    again = launcher("deepspeed", *often, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert f"{saved[-1]} after step {int(saved[-1].removeprefix('step-'))}, bit for bit" in again.stdout
    assert steps_of(run) == list(range(1, 10))


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
