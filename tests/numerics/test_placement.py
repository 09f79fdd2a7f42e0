"""Where the pieces lie - in groups of ranks, on the CPU - changes neither the course nor what a checkpoint holds.

Two worlds: one of four ranks, and one of two that goes on with what the first has saved, and the other way about.
"""

from dataclasses import dataclass, replace
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
from tests.numerics.cells import GROUPS, SECOND, Cell
from tests.numerics.conftest import Judge
from tests.numerics.courses import engine_options, enter, make_backend, train_course
from tests.numerics.deviations import FP32_NORM, LOSS
from tests.numerics.mutants import OverReplicas
from tests.numerics.outcome import Outcome, relative
from tests.numerics.runs import STEPS, Ending, Start, newest, prepare, records, start
from tests.worlds import run_ranks

HALF = STEPS // 2
STOP = f"train.stop_at_step={HALF}"
NO_DROPOUT = "model.dropout=0.0"
CROSS_TOLERANCE = 1e-6
IN_GROUPS = Cell("fsdp", 3, 4, zero=GROUPS)
BACKENDS: tuple[BackendName, ...] = ("fsdp", "deepspeed")
COURSE_STEPS = 20
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class FourRanks:
    """What a world of four says of a wrong course, of who is in a rank's group, of FSDP and of its runs."""

    over_replicas: Outcome
    place: list[list[int]]
    told: dict[str, dict[str, Any]]
    endings: list[Ending]


def four_ranks(courses: Path, runs: Path) -> FourRanks:
    """On a rank: all that needs a world of four."""
    enter()
    wrong, place = over_replicas(courses)
    told = facts(courses)
    first = Start(runs / "groups", "fsdp", "groups", (NO_DROPOUT, STOP))
    endings = start(runs, [first])
    saved = f"{newest(runs / 'groups')[0]}"
    endings += start(
        runs, [Start(runs / f"{each}-second", each, "second", (NO_DROPOUT,), saved) for each in BACKENDS]
    )
    return FourRanks(wrong, place, told, endings)


@pytest.fixture(scope="module")
def of_four(course_folder: Path, folder: Path) -> list[FourRanks]:
    return list(run_ranks(four_ranks, 4, course_folder, folder, timeout=400.0))


def over_replicas(folder: Path) -> tuple[Outcome, list[list[int]]]:
    """Two groups of two whose norms are added over all four; and who is in this rank's group."""
    store = TokenStore.open(folder / "store")
    backend = make_backend(IN_GROUPS, store, folder)
    ours = backend.layout
    assert ours.group is not None
    place = [dist.get_process_group_ranks(ours.group), [ours.replica]]
    backend.optimizer.bind(OverReplicas(ours.parameters, ours.shards, ours.group, ours.replica))
    return train_course(backend, store, IN_GROUPS, COURSE_STEPS), place


def test_norms_summed_over_replicas_are_red(of_four: list[FourRanks], judge: Judge) -> None:
    """The sound course is a cell of the matrix. Neighbours are a group, as the ranks of a machine are."""
    places = [rank.place for rank in of_four]
    assert places == [[[0, 1], [0]], [[0, 1], [0]], [[2, 3], [1]], [[2, 3], [1]]]
    sound, course = judge(IN_GROUPS.setting(COURSE_STEPS)), of_four[0].over_replicas
    assert relative(sound.grad_norms[:1], course.grad_norms[:1]) == pytest.approx(2**0.5 - 1, abs=1e-5)
    assert relative(sound.losses, course.losses) > 100 * LOSS["fp32"]
    assert relative(sound.grad_norms, course.grad_norms) > 100 * FP32_NORM


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
    """Of the first layer under each of `CUTS`, what FSDP was told."""
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


def test_fsdp_is_told_what_the_ds_config_says(of_four: list[FourRanks]) -> None:
    """Results do not show it: on a CPU all of it is the same."""
    found = of_four[0].told
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
    path = tmp_path_factory.mktemp("placement")
    prepare(path)
    return path


@pytest.fixture(scope="module")
def moved(of_four: list[FourRanks], folder: Path) -> Path:
    """Runs in groups on four ranks and offloaded ones on two, stopped half-way and gone on with elsewhere."""
    stopped = Ending(75, f"Stopped by train.stop_at_step after step {HALF}, saved; start again to continue.")
    assert of_four[0].endings == [stopped, Ending(0), Ending(0)]
    saved = f"{newest(folder / 'groups')[0]}"
    starts = [
        Start(folder / "whole", "fsdp", "zero2", (NO_DROPOUT,)),
        Start(folder / "fsdp-offload", "fsdp", "zero3_offload", (NO_DROPOUT, STOP)),
        Start(folder / "deepspeed-offload", "deepspeed", "zero2_offload", (NO_DROPOUT, STOP)),
        Start(folder / "deepspeed-offload", "fsdp", "zero2", (NO_DROPOUT,)),
        Start(folder / "fsdp-offload", "deepspeed", "zero2", (NO_DROPOUT,)),
        Start(folder / "groups-offload", "deepspeed", "zero3_offload", (NO_DROPOUT,), saved),
    ]
    endings = run_ranks(start, 2, folder, starts, timeout=300.0)[0]
    assert endings == [Ending(0), stopped, stopped, *[Ending(0)] * 3]
    return folder


@pytest.mark.parametrize(
    "run", ["groups-offload", "fsdp-offload", "deepspeed-offload", "fsdp-second", "deepspeed-second"]
)
def test_goes_on_elsewhere_as_if_nothing_had_moved(moved: Path, run: str) -> None:
    whole, elsewhere = records(moved / "whole")[HALF:], records(moved / run)[-HALF:]
    assert [record["cursor"] for record in elsewhere] == [record["cursor"] for record in whole]
    for key in ("loss", "grad_norm"):
        found = relative([record[key] for record in whole], [record[key] for record in elsewhere])
        print(f"{key}: {found:.1e}")
        assert found < CROSS_TOLERANCE, key


def test_groups_and_offload_begin_as_the_whole_run(moved: Path) -> None:
    whole = [record["loss"] for record in records(moved / "whole")[:HALF]]
    for run in ("groups", "fsdp-offload", "deepspeed-offload"):
        losses = [record["loss"] for record in records(moved / run)[:HALF]]
        assert relative(whole, losses) < CROSS_TOLERANCE, run


def test_one_replica_writes_the_checkpoint(moved: Path) -> None:
    path, manifest = newest(moved / "groups")
    written = manifest.state.written_by
    assert (written["ranks"], written["shard_group"], written["offload"]) == (4, 2, False)
    assert [file.name for file in manifest.files] == ["rank-00000.safetensors", "rank-00001.safetensors"]
    assert sorted(file.name for file in path.glob("rank-*")) == [file.name for file in manifest.files]
