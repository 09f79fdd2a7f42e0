"""What the launcher says, and what of it contradicts itself or the run."""

import json
from pathlib import Path

import pytest

from pretrain import comm
from pretrain.doctor.launcher import check_batch, check_threads, check_variables
from pretrain.placement import Placement
from tests.doctor.heres import make_here, only
from tests.test_placement import LAUNCHED, ONE_PER_NODE, STEP

TWO = Placement(0, 0, 2, 2)
RANKS = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("variables", "parts"),
    [
        (STEP | {"SLURM_LOCALID": "2"}, ["SLURM_LOCALID=2", "expected a node of the step", "start by srun"]),
        (STEP | {"RANK": "0", "WORLD_SIZE": "5"}, ["RANK=0 and SLURM_PROCID=3 contradict"]),
        (ONE_PER_NODE | LAUNCHED | {"WORLD_SIZE": "4", "RANK": "1"}, ["contradict each other", "--nnodes=2"]),
        ({"RANK": "4", "WORLD_SIZE": "4"}, ["a rank must be below"]),
        (RANKS, ["MASTER_ADDR is None", "start with torchrun"]),
        (
            ONE_PER_NODE | {"MASTER_ADDR": "localhost"},
            ["which is each machine itself", "expected the first node"],
        ),
    ],
)
def test_contradictions(tmp_path: Path, variables: dict[str, str], parts: list[str]) -> None:
    only(check_variables(make_here(tmp_path, variables=variables)), "failed", *parts)


def test_what_is_understood(tmp_path: Path) -> None:
    only(check_variables(make_here(tmp_path)), "ok", "one process")
    only(check_variables(make_here(tmp_path, variables=ONE_PER_NODE)), "ok", "2 ranks", "srun", "n1:24711")
    met = RANKS | {"MASTER_ADDR": "n1", "MASTER_PORT": "29500"}
    only(check_variables(make_here(tmp_path, variables=met)), "ok", "by RANK and WORLD_SIZE", "n1:29500")


def test_a_batch_that_does_not_fit_the_world(tmp_path: Path) -> None:
    three = Placement(0, 0, 3, 3)
    only(check_batch(make_here(tmp_path, place=three)), "failed", "64 rows does not divide over 3 ranks")
    only(check_batch(make_here(tmp_path, place=TWO)), "ok", "64 rows a step are 32 rows x 2 rank(s) x 1")


def test_groups_that_do_not_fit_the_world(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 3, "zero_hpz_partition_size": 4}}))
    only(
        check_batch(make_here(tmp_path, f"--ds_config={path}", place=TWO)),
        "failed",
        "groups of 4",
        "choose a divisor",
    )


def test_more_ranks_than_cores(tmp_path: Path) -> None:
    cores = comm.num_cores()
    many = Placement(0, 0, cores + 1, cores + 1)
    typed = f"train.global_batch={cores + 1}"
    only(
        check_threads(make_here(tmp_path, typed, place=many)),
        "warning",
        f"share {cores} core(s)",
        "--cpus-per-task",
    )
    only(check_threads(make_here(tmp_path)), "ok", f"{cores} thread(s) each")


def test_cores_that_no_thread_computes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comm, "num_cores", lambda: 16)
    few = make_here(tmp_path, place=TWO, variables={"OMP_NUM_THREADS": "1"})
    only(check_threads(few), "warning", "leave most of 16 cores idle", "set OMP_NUM_THREADS=8")
    enough = make_here(tmp_path, place=TWO, variables={"OMP_NUM_THREADS": "8"})
    only(check_threads(enough), "ok", "16 core(s) for 2 rank(s), 8 thread(s) each")
