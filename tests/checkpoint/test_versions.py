"""A checkpoint of version 1, written by the release that wrote such checkpoints, loads for ever.

`version_1/` was saved by two FSDP ranks (stage 2, LAMB) after the third of six steps on the frozen token store, which
lies in tests/data/store; `version_1.json` says what those ranks held in memory at that moment (sha256 of each whole
tensor's fp32 bytes) and what losses and cursors the run had, beyond that step too.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.checkpoint import CheckpointManifest, export_model, load_checkpoint
from pretrain.optim import LambOptions, ShardedOptimizer
from pretrain.sharding import ParameterInfo, Shard, ShardLayout, Slice
from tests.checkpoint.by_hand import read_parameters, read_tensors
from tests.checkpoint.saved import OLD
from tests.end_to_end.runs import pretrain
from tests.worlds import ROOT

HERE = Path(__file__).parent
OLD_STORE = ROOT / "tests/data/store/version_1"
SAVED_STEP, STEPS = 3, 6
# Another processor or release of torch may round otherwise; three steps on, a lost moment is off by a tenth.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((HERE / "version_1.json").read_text())
    return content


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_by_hand_it_is_what_the_ranks_held(expected: dict[str, Any]) -> None:
    assert {name: sha256(content) for name, content in read_parameters(OLD).items()} == expected["sha256"]


@pytest.mark.usefixtures("one_rank")
def test_it_loads_as_what_the_ranks_held(expected: dict[str, Any]) -> None:
    parameters = tuple(
        ParameterInfo(name, tuple(shape)) for name, shape in CheckpointManifest.read(OLD).parameters.items()
    )
    shards = tuple(
        Shard(torch.full((info.numel,), torch.nan), (Slice(index, 0, 0, info.numel),))
        for index, info in enumerate(parameters)
    )
    optimizer = ShardedOptimizer(
        [torch.nn.Parameter(torch.zeros(1))], LambOptions(), weight_decay=0.0, max_grad_norm=0.0
    )
    optimizer.bind(ShardLayout(parameters, shards))
    manifest = load_checkpoint(OLD, optimizer, 0, 1)
    kinds = {kind: optimizer.moments(kind) for kind in optimizer.rule.moment_kinds}
    kinds["master"] = [shard.tensor for shard in shards]
    found = {
        f"{kind} {info.name}": sha256(tensor.numpy().tobytes())
        for kind, tensors in kinds.items()
        for info, tensor in zip(parameters, tensors, strict=True)
    }
    assert found == expected["sha256"]
    assert (manifest.version, manifest.state.step, optimizer.applied_steps) == (1, SAVED_STEP, SAVED_STEP)
    assert manifest.state.cursor == expected["cursors"][SAVED_STEP]


def test_it_is_exported(tmp_path: Path, expected: dict[str, Any]) -> None:
    export_model(OLD, OLD_STORE / "tokenizer", tmp_path / "model")
    tensors = read_tensors(tmp_path / "model" / "model.safetensors")
    for name, (_, content) in tensors.items():
        assert sha256(content) == expected["sha256"][f"master {name}"], name
    assert len(tensors) == len(expected["sha256"]) // 3


def test_a_run_goes_on_from_it(tmp_path: Path, expected: dict[str, Any]) -> None:
    for name in ("recipe.toml", "model.json"):
        shutil.copy(HERE / "version_1" / name, tmp_path)
    options = ("--recipe", "recipe.toml", "--backend", "fsdp", "--output", "run")
    done = pretrain(*options, "--data", OLD_STORE, "--resume", OLD, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(SAVED_STEP + 1, STEPS + 1))
    assert [line["cursor"] for line in lines] == expected["cursors"][SAVED_STEP:]
    for key, values in (("loss", "losses"), ("grad_norm", "grad_norms")):
        assert [line[key] for line in lines] == pytest.approx(expected[values][SAVED_STEP:], rel=TOLERANCE)
