"""The ways to start ranks on several nodes, as launch/slurm/README.md has them, on a real SLURM."""

import json
import re
from pathlib import Path

import pytest

from pretrain.faults.bench import Bench
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
