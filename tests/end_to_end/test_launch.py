"""The ways to start a run, and to stop it: signals, exit codes, both launchers."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from pretrain.faults.tiny import write_tiny_store
from tests.end_to_end.runs import (
    LAUNCH,
    ONE_THREAD,
    TINY_RUN,
    contents,
    error_of,
    launcher_command,
    pretrain,
    pretrain_as_typed,
    steps_of,
    write_model,
)
from tests.worlds import ROOT, environment, run_command

STEPS = 300  # a few seconds: enough to be stopped in
AS_TYPED = {
    "deepspeed": ("--ds_config", "ds_configs/zero2.json"),
    "torchrun": ("--backend", "fsdp", "--ds_config", "ds_configs/zero3.json"),
}


@pytest.fixture
def options(tmp_path: Path) -> tuple[str | Path, ...]:
    """A tiny run with absolute paths, for any working folder."""
    write_tiny_store(tmp_path / "store", 60)
    model = write_model(tmp_path / "tiny.json")
    return ("--data", tmp_path / "store", "--output", tmp_path / "run", f"model.config={model}", *TINY_RUN)


@contextmanager
def started(command: Sequence[str | Path], cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """A running command, which does not outlive the test."""
    process = subprocess.Popen(
        [str(each) for each in command],
        cwd=cwd,
        env=environment(ONE_THREAD),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            for each in [*psutil.Process(process.pid).children(recursive=True), process]:
                each.kill()
        process.wait()


def stop_after(
    command: Sequence[str | Path], run: Path, num_steps: int, number: signal.Signals, cwd: Path
) -> tuple[int, str]:
    """Starts a run, sends it a signal once it has made so many steps; its exit code and stderr."""
    with started(command, cwd) as process:
        deadline = time.monotonic() + 90
        metrics = run / "metrics.jsonl"
        while not metrics.exists() or len(metrics.read_text().splitlines()) < num_steps:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def test_stopped_by_signals_and_started_again_until_it_is_finished(
    tmp_path: Path, options: tuple[str | Path, ...]
) -> None:
    run = tmp_path / "run"
    arguments = ("--backend", "fsdp", *options, f"train.steps={STEPS}")
    command = [sys.executable, LAUNCH, *arguments]
    done = 0
    for number in (signal.SIGUSR1, signal.SIGTERM):
        code, errors = stop_after(command, run, done + 1, number, tmp_path)
        assert code == 75, errors
        before, done = done, len(steps_of(run))
        assert before < done < STEPS
        assert error_of(errors) == (
            f"error: Stopped by {number.name} after step {done}, saved; start again to continue."
        )
        assert (run / "checkpoints" / "latest").read_text().strip() == f"step-{done:08d}"
        assert not (run / "model").exists()
        assert not (run / "run.lock").exists()

    finishing = pretrain(*arguments, cwd=tmp_path)
    assert finishing.returncode == 0, finishing.stderr
    assert f"Continuing {run}/checkpoints/step-{done:08d} after step {done}, bit for bit" in finishing.stdout
    assert steps_of(run) == list(range(1, STEPS + 1))
    assert (run / "model" / "config.json").exists()

    finished = contents(run)
    again = pretrain(*arguments, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert f"is finished: {STEPS} steps" in again.stdout
    assert contents(run) == finished


@pytest.mark.parametrize("name", AS_TYPED)
def test_a_launchers_command_as_typed(name: str, tmp_path: Path, options: tuple[str | Path, ...]) -> None:
    """Stopped after two of three steps, and started again by the same command.

    deepspeed hands 75 on. torchrun ends with 1 whatever its ranks end with, and names their code.
    """
    command = [*launcher_command(name, "launch/pretrain.py"), *AS_TYPED[name], *options]
    stopped = run_command([*command, "train.stop_at_step=2"], cwd=ROOT, env=ONE_THREAD, timeout=180)
    assert "Stopped by train.stop_at_step after step 2, saved" in error_of(stopped.stderr)
    if name == "deepspeed":
        assert stopped.returncode == 75
    else:
        assert (stopped.returncode, "exitcode  : 75" in stopped.stderr) == (1, True)
    assert not (tmp_path / "run" / "model").exists()

    finishing = run_command(command, cwd=ROOT, env=ONE_THREAD, timeout=180)
    assert finishing.returncode == 0, finishing.stderr
    assert "after step 2, bit for bit" in finishing.stdout
    assert "2 rank(s)" in finishing.stdout
    assert steps_of(tmp_path / "run") == [1, 2, 3]
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


def test_help_shows_the_options_and_starts_nothing(tmp_path: Path) -> None:
    result = pretrain_as_typed("--help", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for option in (
        "--data",
        "--output",
        "--recipe",
        "--ds_config",
        "--backend",
        "--resume",
        "section.key=value",
    ):
        assert option in result.stdout
    assert list(tmp_path.iterdir()) == []
