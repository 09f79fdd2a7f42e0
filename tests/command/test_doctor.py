"""`doctor` as a user types it: alone and on two ranks, for people and as JSON, and its exit codes."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from pretrain.doctor.exam import SECTIONS
from pretrain.faults.damage import flip
from tests.checkpoint.saved import OLD
from tests.command.runs import STORE, command
from tests.worlds import run_command

RUN = ("--data", STORE, "model.preset=bert-tiny")


def test_alone_it_names_what_is_damaged_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All is well but for a flipped bit, which is 3."""
    store = Path(shutil.copytree(STORE, tmp_path / "store"))
    flip(store / "heldout-00000.tokens", 9)
    typed = ("--data", store, "model.preset=bert-tiny", "--verify", "--output", tmp_path / "runs" / "new")
    assert command("doctor", *typed) == 3
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    (line,) = (each for each in lines if each.startswith("  failed"))
    assert line.startswith("  failed   checksums: ") and "heldout-00000.tokens has changed" in line
    assert ". To do: copy the store again" in line
    assert [each for each in lines if not each.startswith(" ")][:-1] == list(SECTIONS)
    assert lines[-1].startswith("1 failed, ") and captured.err == ""
    assert os.listdir(tmp_path) == ["store"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--seconds=0",), "--seconds is 0: give a number above 0."),
        (("train.stepz=3",), "train.stepz"),
        (("--backend=megatron",), "invalid choice"),
        (("--data=x", "--verifi"), "unrecognized arguments: --verifi"),
    ],
)
def test_mistakes_are_2(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], part: str) -> None:
    assert command("doctor", *arguments) == 2
    captured = capsys.readouterr()
    assert part in captured.err and captured.out == ""


def test_the_batch_is_that_of_the_run_that_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Saved by two ranks with four rows a step, of which the ds_config alone would make two on one rank."""
    checkpoints = tmp_path / "run" / "checkpoints"
    saved = Path(shutil.copytree(OLD, checkpoints / OLD.name))
    manifest = json.loads((saved / "manifest.json").read_text())
    said = {"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 1}
    manifest["state"]["run_config"]["ds_config"] |= said
    (saved / "manifest.json").write_text(json.dumps(manifest))
    (checkpoints / "latest").write_text(OLD.name)
    (tmp_path / "ds.json").write_text(json.dumps(said))
    typed = (*RUN, "--ds_config", tmp_path / "ds.json", "--output", tmp_path / "run", "--backend", "fsdp")
    command("doctor", *typed)
    assert "batch: 4 rows a step are 2 rows x 1 rank(s) x 2" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.in_full("two ranks are tried under SLURM and by hand")
def test_two_ranks_under_torchrun(tmp_path: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "pretrain", "doctor")
    env = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    output = tmp_path / "run"
    done = run_command([sys.executable, *torchrun, *RUN, "--output", output], env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    for part in (
        "  ok       variables: 2 ranks, 2 on this machine, by torchrun",
        "  ok       places: 2 rank(s) on 1 machine(s)",
        "  ok       meeting: all 2 rank(s) have come and answered",
        "  ok       all-reduce: all-reduce of 2 ranks: ",
        "  ok       everywhere: all ranks have the same versions",
    ):
        assert any(line.startswith(part) for line in lines), (part, lines)
    assert lines[-1].startswith("0 failed, ") and os.listdir(tmp_path) == []
    # A mistake is said once.
    done = run_command([sys.executable, *torchrun, *RUN, "train.stepz=3"], env=env)
    assert done.stderr.count("error: ") == 1, done.stderr


@pytest.mark.slow
def test_a_contradiction_is_one_failure_among_what_else_there_is(tmp_path: Path) -> None:
    env = {"RANK": "1", "WORLD_SIZE": "1"}
    typed = ("--data=nowhere", "--output", tmp_path / "run", "--seconds=1")
    done = run_command([sys.executable, "-m", "pretrain", "doctor", *typed], env=env)
    assert (done.returncode, done.stdout) == (1, "")
    variables, store = (each for each in done.stderr.splitlines() if " failed " in each)
    assert variables.startswith("rank 1 on ") and "no token store at nowhere" in store
    assert "failed   variables: Environment says RANK=1 and WORLD_SIZE=1" in variables
