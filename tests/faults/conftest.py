"""A bench that all rows of a session share."""

import pytest

from pretrain.faults.bench import Bench
from tests.worlds import ROOT


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory, in_full: bool) -> Bench:
    return Bench(tmp_path_factory.mktemp("faults"), ROOT / "launch" / "pretrain.py", in_full)
