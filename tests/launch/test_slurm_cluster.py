"""The cluster itself."""

import shutil
import tempfile
from pathlib import Path

import psutil
import pytest

from tests.launch.slurm_cluster import NODES, SlurmCluster, wait_for

pytestmark = pytest.mark.slow


def test_a_job_runs_on_both_nodes(slurm: SlurmCluster) -> None:
    said = slurm.run("srun", "--nodes=2", "--label", "printenv", "SLURMD_NODENAME").stdout
    assert sorted(said.splitlines()) == [f"{number}: {node}" for number, node in enumerate(NODES)]


def test_a_cluster_leaves_nothing(slurm: SlurmCluster) -> None:
    """Not even what a running job has started. (`slurm`: so that this one is skipped where there can be none.)"""
    before = _processes()
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    own = SlurmCluster(folder)
    try:
        own.start()
        job = own.sbatch("--nodes=2", "--wrap", "srun sleep 987", cwd=folder)
        wait_for(lambda: len(_sleeping()) == 2, f"job {job}", 30, lambda: own.state(job))
    finally:
        own.stop()
        shutil.rmtree(folder)
    assert not _sleeping()
    assert not _processes() - before


def _processes() -> set[str]:
    """Those of SLURM."""
    found = set()
    for each in psutil.process_iter(["pid", "name", "status"]):
        if each.info["name"].startswith(("slurm", "munge")) and each.info["status"] != psutil.STATUS_ZOMBIE:
            found.add(f"{each.info['pid']} {each.info['name']}")
    return found


def _sleeping() -> list[int]:
    found = psutil.process_iter(["cmdline"])
    words = [(each.pid, each.info["cmdline"] or [""]) for each in found]
    return [pid for pid, said in words if said[0].endswith("sleep") and said[-1] == "987"]
