"""Where the pieces lie - in groups of ranks, on the CPU - changes neither the course nor what a checkpoint holds."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import CPUOffloadPolicy

from pretrain.backends import fsdp
from pretrain.backends.carried import BackendName
from pretrain.backends.deepspeed import engine_json
from pretrain.config import EngineConfig
from pretrain.data.store import TokenStore
from tests.numerics.cells import Cell
from tests.numerics.conftest import Judge
from tests.numerics.courses import engine_options, enter, make_backend, train_course
from tests.numerics.deviations import FP32_NORM, LOSS
from tests.numerics.mutants import OverReplicas
from tests.numerics.outcome import Outcome, relative
from tests.numerics.runs import STEPS, Ending, Start, newest, prepare, records, start
from tests.worlds import ROOT, run_ranks

HALF = STEPS // 2
STOP = f"train.stop_at_step={HALF}"
NO_DROPOUT = "model.dropout=0.0"
FP32 = {"bf16": {"enabled": False}}
CROSS_TOLERANCE = 1e-6
IN_GROUPS = Cell("fsdp", 3, 4, zero=(("mics_shard_size", 2),))
BACKENDS: tuple[BackendName, ...] = ("fsdp", "deepspeed")
pytestmark = pytest.mark.slow


def over_replicas(folder: Path, steps: int) -> tuple[Outcome, list[list[int]]]:
    """On a rank: two groups of two whose norms are added over all four; and who is in this rank's group."""
    enter()
    store = TokenStore.open(folder / "store")
    backend = make_backend(IN_GROUPS, store, folder)
    ours = backend.layout
    assert ours.group is not None
    place = [dist.get_process_group_ranks(ours.group), [ours.replica]]
    backend.optimizer.bind(OverReplicas(ours.parameters, ours.shards, ours.group, ours.replica))
    return train_course(backend, store, IN_GROUPS, steps), place


def test_norms_summed_over_replicas_are_red(course_folder: Path, judge: Judge) -> None:
    """The sound course is a cell of the matrix. Neighbours are a group, as the ranks of a machine are."""
    steps = 20
    found = run_ranks(over_replicas, 4, course_folder, steps, timeout=240.0)
    assert [place for _, place in found] == [[[0, 1], [0]], [[0, 1], [0]], [[2, 3], [1]], [[2, 3], [1]]]
    sound, course = judge(IN_GROUPS.setting(steps)), found[0][0]
    assert relative(sound.grad_norms[:1], course.grad_norms[:1]) == pytest.approx(2**0.5 - 1, abs=1e-5)
    assert relative(sound.losses, course.losses) > 100 * LOSS["fp32"]
    assert relative(sound.grad_norms, course.grad_norms) > 100 * FP32_NORM


SECOND = (("zero_hpz_partition_size", 2),)
ONE_LAYER = 12_000  # elements; each of the two layers has some 10,000
CUTS = {
    "all ranks": Cell("fsdp", 3, 4),
    "secondary": Cell("fsdp", 3, 4, zero=SECOND),
    "kept": Cell("fsdp", 2, 4),
    "offloaded": Cell("fsdp", 2, 4, offload="optimizer"),
    "ahead": Cell("fsdp", 3, 4, zero=(("stage3_prefetch_bucket_size", ONE_LAYER),)),
    "nothing ahead": Cell("fsdp", 3, 4, zero=(("stage3_prefetch_bucket_size", 100),)),
}


def facts(folder: Path) -> dict[str, dict[str, Any]]:
    """On a rank: of the first layer under each of `CUTS`, what FSDP was told."""
    enter()
    store = TokenStore.open(folder / "store")
    found = {}
    for name, cell in CUTS.items():
        backend: Any = make_backend(cell, store, folder)
        layers = [layer._get_fsdp_state() for layer in backend._model.blocks()]
        (group,) = layers[0]._fsdp_param_groups
        found[name] = {
            "group between the passes": getattr(group.post_forward_mesh_info, "shard_mesh_size", None),
            "offloads": isinstance(group.offload_policy, CPUOffloadPolicy),
            "ahead": [
                [layers.index(each) for each in ahead]
                for ahead in (layers[0]._states_to_forward_prefetch, layers[1]._states_to_backward_prefetch)
            ],
        }
    return found


def test_fsdp_is_told_what_the_ds_config_says(course_folder: Path) -> None:
    """Results do not show it: on a CPU all of it is the same."""
    found = run_ranks(facts, 4, course_folder, timeout=240.0)[0]
    between = {name: each["group between the passes"] for name, each in found.items()}
    expected = {
        "all ranks": 4,
        "secondary": 2,
        "kept": None,
        "offloaded": None,
        "ahead": 4,
        "nothing ahead": 4,
    }
    assert between == expected
    assert [name for name, each in found.items() if each["offloads"]] == ["offloaded"]
    assert found["ahead"]["ahead"] == [[1], [0]]
    assert found["nothing ahead"]["ahead"] == [[0], [1]]  # of itself, which is there
    assert found["all ranks"]["ahead"] == [[], []]  # FSDP's own way


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("pin", [None, True, False])
def test_memory_is_pinned_for_a_gpu_alone(device: str, pin: bool | None) -> None:
    said = {} if pin is None else {"pin_memory": pin}
    zero = {
        "stage": 3,
        "offload_optimizer": {"device": "cpu", "nvme_path": "/local_nvme", "buffer_count": 4, **said},
        "offload_param": {"device": "cpu"},
        "load_from_fp32_weights": True,
    }
    config = EngineConfig.model_validate({"zero_optimization": zero})
    options = replace(engine_options(Cell("fsdp", 3)), config=config, device=torch.device(device))
    pinned = device == "cuda" and pin is not False
    policy = fsdp._offload_policy(options)
    assert isinstance(policy, CPUOffloadPolicy) and policy.pin_memory == pinned
    told = {"device": "cpu", "pin_memory": pinned}
    assert engine_json(options)["zero_optimization"] == {
        "stage": 3,
        "sub_group_size": 1_000_000_000,
        "offload_optimizer": told,
        "offload_param": told,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs in groups on four ranks and offloaded ones on two, stopped half-way and gone on with elsewhere."""
    path = tmp_path_factory.mktemp("placement")
    prepare(path)
    for name in ("zero2_offload", "zero3_offload"):
        shipped = json.loads((ROOT / "ds_configs" / f"{name}.json").read_text())
        (path / f"{name}.json").write_text(json.dumps(shipped | FP32))
    zero = {"stage": 3, "mics_shard_size": 2}
    (path / "groups.json").write_text(json.dumps({"zero_optimization": zero, **FP32}))
    stopped = Ending(75, f"Stopped by train.stop_at_step after step {HALF}, saved; start again to continue.")

    def two_ranks(starts: list[Start]) -> list[Ending]:
        result = run_ranks(start, 2, path, starts, timeout=300.0)[0]
        assert isinstance(result, list)
        return result

    in_groups = Start(path / "groups", "fsdp", "groups", (NO_DROPOUT, STOP))
    assert run_ranks(start, 4, path, [in_groups], timeout=300.0)[0] == [stopped]
    shutil.copytree(path / "groups", path / "groups-saved")
    first = [
        Start(path / "whole", "fsdp", "zero2", (NO_DROPOUT,)),
        Start(path / "fsdp-offload", "fsdp", "zero3_offload", (NO_DROPOUT, STOP)),
        Start(path / "deepspeed-offload", "deepspeed", "zero2_offload", (NO_DROPOUT, STOP)),
    ]
    assert two_ranks(first) == [Ending(0), stopped, stopped]
    second = [
        Start(path / "deepspeed-offload", "fsdp", "zero2", (NO_DROPOUT,)),
        Start(path / "fsdp-offload", "deepspeed", "zero2", (NO_DROPOUT,)),
        Start(path / "groups", "deepspeed", "zero3_offload", (NO_DROPOUT,)),
    ]
    assert two_ranks(second) == [Ending(0)] * 3
    (path / "second.json").write_text(json.dumps({"zero_optimization": {"stage": 3, **dict(SECOND)}, **FP32}))
    third = [Start(path / f"{backend}-second", backend, "second", (NO_DROPOUT,)) for backend in BACKENDS]
    for each in third:
        shutil.copytree(path / "groups-saved", each.output)
    assert run_ranks(start, 4, path, third, timeout=300.0)[0] == [Ending(0)] * 2
    return path


@pytest.mark.parametrize(
    "run", ["groups", "fsdp-offload", "deepspeed-offload", "fsdp-second", "deepspeed-second"]
)
def test_goes_on_elsewhere_as_if_nothing_had_moved(folder: Path, run: str) -> None:
    whole, moved = records(folder / "whole"), records(folder / run)
    assert [record["cursor"] for record in moved] == [record["cursor"] for record in whole]
    for key in ("loss", "grad_norm"):
        found = relative([record[key] for record in whole], [record[key] for record in moved])
        print(f"{key}: {found:.1e}")
        assert found < CROSS_TOLERANCE, key


def test_one_replica_writes_the_checkpoint(folder: Path) -> None:
    path, manifest = newest(folder / "groups-saved")
    written = manifest.state.written_by
    assert (written["ranks"], written["shard_group"], written["offload"]) == (4, 2, False)
    assert [file.name for file in manifest.files] == ["rank-00000.safetensors", "rank-00001.safetensors"]
    assert sorted(file.name for file in path.glob("rank-*")) == [file.name for file in manifest.files]
