"""On a GPU: what lies on the CPU between the passes trains the model that is on the GPU, under either engine."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.faults.tiny import write_tiny_store
from tests.end_to_end.runs import LAUNCH, TINY_RUN, write_model
from tests.worlds import ROOT, run_command

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

# Kernels of the GPU and loops of the CPU round otherwise.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("offload")
    write_tiny_store(path / "store")
    write_model(path / "model.json")
    return path


def losses(folder: Path, backend: str, ds_config: str, zero: dict[str, Any]) -> list[float]:
    """Of a run in fp32 by a shipped ds_config, with more keys in its zero_optimization block."""
    content = json.loads((ROOT / "ds_configs" / f"{ds_config}.json").read_text())
    content |= {"bf16": {"enabled": False}, "zero_optimization": content["zero_optimization"] | zero}
    output = folder / f"{backend}-{ds_config}-{len(zero)}"
    path = folder / f"{output.name}.json"
    path.write_text(json.dumps(content))
    model = f"model.config={folder / 'model.json'}"
    options: list[str | Path] = [
        "--data",
        folder / "store",
        "--output",
        output,
        "--backend",
        backend,
        "--ds_config",
        path,
    ]
    command = [sys.executable, LAUNCH, *options, *TINY_RUN, model, "model.dropout=0.0"]
    result = run_command(command, cwd=folder, timeout=300)
    assert result.returncode == 0, result.stderr
    return [json.loads(line)["loss"] for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("backend", ["fsdp", "deepspeed"])
def test_offloaded_steps_are_those_on_the_gpu(folder: Path, backend: str, stage: int) -> None:
    on_gpu = losses(folder, backend, f"zero{stage}", {})
    assert losses(folder, backend, f"zero{stage}_offload", {}) == pytest.approx(on_gpu, rel=TOLERANCE)


def test_memory_need_not_be_pinned(folder: Path) -> None:
    unpinned = {"device": "cpu", "pin_memory": False}
    zero = {"offload_optimizer": unpinned, "offload_param": unpinned}
    found = losses(folder, "fsdp", "zero3_offload", zero)
    assert found == pytest.approx(losses(folder, "fsdp", "zero3", {}), rel=TOLERANCE)
