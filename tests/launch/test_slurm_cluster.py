"""The cluster itself."""

from pathlib import Path

import psutil
import pytest

from tests.launch.slurm_cluster import NODES, SlurmCluster

pytestmark = pytest.mark.slow


def test_a_job_runs_on_both_nodes(slurm: SlurmCluster, tmp_path: Path) -> None:
    said = slurm.run("srun", "--nodes=2", "--label", "printenv", "SLURMD_NODENAME").stdout
    assert sorted(said.splitlines()) == [f"{number}: {node}" for number, node in enumerate(NODES)]


def test_a_cluster_leaves_nothing(tmp_path: Path) -> None:
    """Not even what a running job has started."""
    before = {each.pid for each in psutil.process_iter()}
    folder = tmp_path / "own"
    folder.mkdir()
