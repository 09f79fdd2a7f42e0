"""The ways to start ranks on several nodes, as launch/slurm/README.md has them, on a real SLURM."""

import json
import re
from pathlib import Path

import pytest

from pretrain.faults.bench import Bench
from tests.command.runs import STORE
from tests.launch.slurm_cluster import SlurmCluster
from tests.worlds import ROOT

pytestmark = pytest.mark.slow

PAGE = ROOT / "launch" / "slurm" / "README.md"
STEPS = 3


def example(heading: str) -> str:
    """The first block of code below a heading."""
    section = PAGE.read_text().partition(f"\n## {heading}\n")[2]
    found = re.search(r"```\n(.*?)\n```", section, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("heading", ["Plain srun", "torchrun", "deepspeed with a hostfile"])
def test_the_example_trains_on_two_nodes(
    slurm: SlurmCluster, bench: Bench, checkout: Path, heading: str, in_full: bool
) -> None:
    """As typed, but for a tiny model at its end."""
    if heading != "Plain srun" and not in_full:
        pytest.skip("in full: torchrun and deepspeed are tried on one node besides")
    for name in ("runs", "stores"):
        (checkout / name).mkdir()
    (checkout / "stores" / "mine").symlink_to(bench.store)
    tiny = " ".join(f"'{each}'" for each in bench.arguments(STEPS) if not each.startswith("--data"))
    log = checkout / "log"
    job = slurm.sbatch(
        *("--nodes=2", "--ntasks-per-node=1", f"--output={log}", "--wrap"),
        f"set -eu\n{example(heading)} {tiny}",
        cwd=checkout,
    )
    assert slurm.wait_for_end(job, log=log) == "COMPLETED", log.read_text()
    run = checkout / "runs" / "mine"
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, STEPS + 1))
    assert json.loads((run / "config.json").read_text())["run"]["ranks"] == 2


def test_the_doctor_looks_on_two_nodes(slurm: SlurmCluster, checkout: Path) -> None:
    """As typed, but for a tiny model. The script of this job asks for no signal, and both nodes have one loopback."""
    for name in ("runs", "stores"):
        (checkout / name).mkdir()
    (checkout / "stores" / "mine").symlink_to(STORE)
    log = checkout / "log"
    job = slurm.sbatch(
        *("--nodes=2", "--ntasks-per-node=1", f"--output={log}", "--wrap"),
        f"set -eu\n{example('Look first')} model.preset=bert-tiny",
        cwd=checkout,
    )
    assert slurm.wait_for_end(job, log=log) == "COMPLETED", log.read_text()
    said = log.read_text()
    for part in (
        "ok       variables: 2 ranks, 1 on this machine, by srun's variables; meeting at 127.0.0.1:",
        "ok       places: 2 rank(s) on 2 machine(s), each with a place of its own",
        "ok       meeting: all 2 rank(s) have come and answered",
        "ok       names: every machine knows the names of all 2",
        "ok       all-reduce: all-reduce of 2 ranks: ",
        "ok       shared: every machine sees what rank 0 writes there",
        "ok       everywhere: every machine has the same store",
        f"warning  job: rank 0 on 127.0.0.1: the script of job {job} has no --signal",
        "\n0 failed, ",
    ):
        assert part in said, (part, said)
    assert list((checkout / "runs").iterdir()) == []
