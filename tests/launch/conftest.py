"""The cluster that all tests of this folder share."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.slurm_cluster import SlurmCluster, missing
from tests.worlds import ROOT


@pytest.fixture(scope="session")
def slurm() -> Iterator[SlurmCluster]:
    """Two nodes; skips where SLURM is not installed, and fails there under CI."""
    lacking = missing()
    if lacking is not None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(lacking)
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a short path
    cluster = SlurmCluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Where a user submits from: the repository's folders, and a place for what is written."""
    folder = tmp_path / "a checkout"
    folder.mkdir()
    for name in ("data_prep", "ds_configs", "launch", "pretrain"):
        (folder / name).symlink_to(ROOT / name)
    return folder
