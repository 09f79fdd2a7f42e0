"""Whole runs on GPUs as a user types them: beside the CPU, beside each other, over several GPUs, and going on."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.faults.tiny import write_tiny_store
from tests.end_to_end.runs import LAUNCH, ONE_THREAD, free_port, write_model
from tests.worlds import run_command

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

GPUS = torch.cuda.device_count()
STEPS = 6
# Heads of 32: what variable-length attention takes.
SIZES: dict[str, Any] = {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 256}
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
SECONDS = 600.0


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    folder = tmp_path_factory.mktemp("runs")
    write_tiny_store(folder / "store", 200)
    model = write_model(folder / "model.json", **SIZES)
    shape = ("data.seq_len=32", "train.global_batch=32", f"train.steps={STEPS}", "eval.rows=8", "log.every=1")
    return ("--data", str(folder / "store"), f"model.config={model}", "schedule.warmup=2", *shape)


def steps_of(
    output: Path, *typed: str, ranks: int = 1, env: dict[str, str] | None = None, code: int = 0
) -> Any:
    """The lines of metrics.jsonl after a run by torchrun, or by plain Python on one rank."""
    start: list[str | Path] = [sys.executable]
    if ranks > 1:
        start += ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}", f"--master-port={free_port()}"]
    command = [*start, LAUNCH, *typed, "--output", output]
    result = run_command(command, cwd=output.parent, env=ONE_THREAD | (env or {}), timeout=SECONDS)
    assert result.returncode == code, result.stderr
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def figures(steps: Any) -> list[tuple[float, float]]:
    return [(step["loss"], step["grad_norm"]) for step in steps]


def ds_config(folder: Path, stage: int, bf16: bool = False) -> str:
    path = folder / f"zero{stage}-{bf16}.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": stage}, "bf16": {"enabled": bf16}}))
    return str(path)


@pytest.mark.parametrize("backend", ["deepspeed", "fsdp"])
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_run_is_that_of_the_cpu(tmp_path: Path, options: tuple[str, ...], backend: str, stage: int) -> None:
    typed = (*options, "--backend", backend, "--ds_config", ds_config(tmp_path, stage), "model.dropout=0.0")
    here = steps_of(tmp_path / "gpu", *typed, ranks=min(2, GPUS))
    there = steps_of(tmp_path / "cpu", *typed, env=NO_GPU)
    assert [step["cursor"] for step in here] == [step["cursor"] for step in there]
    for one, other in zip(figures(here), figures(there), strict=True):
        assert one == pytest.approx(other, rel=2e-5)


@pytest.mark.parametrize("compiled", ["false", "true"])
def test_variable_length_attention_learns_as_masks_do(
    tmp_path: Path, options: tuple[str, ...], compiled: str
) -> None:
    """In bf16: with attention's dropout tiny instead of none the path is the other one."""
    typed = (
        *options,
        "--backend",
        "fsdp",
        "--ds_config",
        ds_config(tmp_path, 2, bf16=True),
        "model.dropout=0.0",
    )
    flash = steps_of(tmp_path / "flash", *typed, f"train.compile={compiled}")
    masks = steps_of(tmp_path / "masks", *typed, "model.attention_dropout=1e-9")
    for one, other in zip(flash, masks, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=5e-3)


@pytest.mark.parametrize("backend", ["deepspeed", "fsdp"])
def test_a_deterministic_run_goes_on_bit_for_bit(
    tmp_path: Path, options: tuple[str, ...], backend: str
) -> None:
    config = ds_config(tmp_path, 2, bf16=True)
    common = (
        "--backend",
        backend,
        "--ds_config",
        config,
        "train.deterministic=true",
        "model.attention_dropout=0.0",
    )
    whole = steps_of(tmp_path / "whole", *options, *common)
    steps_of(tmp_path / "parts", *options, *common, "train.stop_at_step=3", code=75)
    parts = steps_of(tmp_path / "parts", *options, *common)
    assert figures(parts) == figures(whole) and len(whole) == STEPS
