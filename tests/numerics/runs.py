"""Whole runs through `pretrain.run.train`, as the command line starts them, several in one world."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pretrain import comm
from pretrain.backends.carried import BackendName
from pretrain.build import Request
from pretrain.checkpoint import CheckpointManifest, find_checkpoint
from pretrain.comm import Placement
from pretrain.config import resolve
from pretrain.errors import PretrainError
from pretrain.faults.tiny import write_tiny_store
from pretrain.run import train
from pretrain.signals import StopRequest
from tests.numerics.recipe import MODEL_CONFIG

STEPS = 20
ENGINES: tuple[tuple[BackendName, int], ...] = tuple(
    (backend, stage) for backend in ("fsdp", "deepspeed") for stage in range(4)
)
# Of the shipped offloads in fp32, and of groups of two ranks.
PLACEMENTS: dict[str, dict[str, Any]] = {
    "zero2_offload": {"stage": 2, "offload_optimizer": {"device": "cpu"}},
    "zero3_offload": {"stage": 3, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}},
    "groups": {"stage": 3, "mics_shard_size": 2},
    "second": {"stage": 3, "zero_hpz_partition_size": 2},
}
_TIMES = ("seconds", "tokens_per_second", "mfu", "data_wait")


@dataclass(frozen=True)
class Start:
    """One start of a run: where it writes, under which engine, and what is unlike the recipe of all."""

    output: Path
    backend: BackendName
    engine: str  # name of the engine config
    overrides: tuple[str, ...] = ()
    resume: str = "auto"


@dataclass(frozen=True)
class Ending:
    """How it ended: the exit code of the public contract, and the message if it was an error."""

    exit_code: int
    message: str = ""


def prepare(folder: Path) -> None:
    """The store, the recipe and the engine configs that all runs below `folder` share."""
    write_tiny_store(folder / "store")
    (folder / "model.json").write_text(json.dumps(MODEL_CONFIG))
    (folder / "recipe.toml").write_text(
        f"""
seed = 5
data = {{ seq_len = 48 }}
model = {{ config = "{folder}/model.json", dropout = 0.1 }}
train = {{ steps = {STEPS}, global_batch = 8, micro_batch = 2 }}
optimizer = {{ lr = 0.01 }}
schedule = {{ warmup = 4 }}
eval = {{ every = 6, rows = 5 }}
checkpoint = {{ every = 5, keep = 2 }}
"""
    )
    for stage in range(4):
        for bf16 in (False, True):
            config = {"zero_optimization": {"stage": stage}, "bf16": {"enabled": bf16}}
            (folder / f"zero{stage}{'_bf16' * bf16}.json").write_text(json.dumps(config))
    for name, zero in PLACEMENTS.items():
        (folder / f"{name}.json").write_text(json.dumps({"zero_optimization": zero}))


def start(folder: Path, starts: list[Start]) -> list[Ending]:
    """On a rank: each of the starts, one after another."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    place = Placement(rank, rank, ranks, ranks)
    comm.prepare_environment(place)
    endings = []
    for each in starts:
        try:
            config = resolve(
                recipe_path=folder / "recipe.toml",
                default_recipe=folder / "recipe.toml",
                ds_config_path=folder / f"{each.engine}.json",
                overrides=each.overrides,
                world_size=ranks,
            )
            device = torch.device("cpu")
            train(
                Request(config, each.backend, folder / "store", each.output, each.resume, place, device),
                StopRequest(),
            )
            endings.append(Ending(0))
        except PretrainError as error:
            endings.append(Ending(error.exit_code, str(error)))
    return endings


def records(output: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """All that a run says of its steps but for the clock."""
    lines = map(json.loads, (output / name).read_text().splitlines())
    return [{key: value for key, value in line.items() if key not in _TIMES} for line in lines]


def newest(output: Path) -> tuple[Path, CheckpointManifest]:
    path = find_checkpoint(output / "checkpoints")
    assert path is not None
    return path, CheckpointManifest.read(path)
