"""What every test starts from: one torch thread, the same seeds, no network, no launcher's variables."""

import os
from collections.abc import Iterator

import pytest
import torch

from pretrain import comm, garbage
from pretrain.faults.bench import Bench
from tests.worlds import ROOT, environment

# Processes of this one are many at a time, and their tensors small: a second thread would wait, which takes a core.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
garbage.pause()  # while tests are imported


def pytest_configure(config: pytest.Config) -> None:
    """What is tried on the CPU finds no GPU, in no process; `gpu` tests run where `-m gpu` asks for them alone."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_finish() -> None:
    garbage.spare()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--in-full", action="store_true", help="sweeps over everything, not a sample of it")
    parser.addoption("--matrix-results", metavar="FOLDER", help="where the equality matrix writes its table")


@pytest.fixture(scope="session")
def in_full(pytestconfig: pytest.Config) -> bool:
    """Whether sweeps go over everything."""
    return bool(pytestconfig.getoption("--in-full"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """`gpu` tests need a GPU; benchmarks run only where `-m` names them; `in_full` tests where all is asked for."""
    no_gpu = pytest.mark.skip(reason="needs a GPU; run it with -m gpu")
    not_asked = pytest.mark.skip(reason="a benchmark; run it with -m benchmark")
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(no_gpu)
        if item.get_closest_marker("benchmark") and "benchmark" not in item.config.option.markexpr:
            item.add_marker(not_asked)
        marker = item.get_closest_marker("in_full")
        if marker is not None and not config.getoption("--in-full"):
            item.add_marker(pytest.mark.skip(reason=f"in full: {marker.args[0]}"))


@pytest.fixture(autouse=True)
def _same_start(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tests do not see each other's random draws or thread counts."""
    for name in set(os.environ) - set(environment()):
        monkeypatch.delenv(name)
    torch.manual_seed(0)
    yield


@pytest.fixture
def user_environment() -> dict[str, str]:
    """The environment of a command as a user types it, offline."""
    return environment({"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"})


@pytest.fixture
def one_rank() -> Iterator[None]:
    """This process as a world of one."""
    comm.start(comm.Placement(0, 0, 1, 1), torch.device("cpu"))
    yield
    comm.stop()


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory, in_full: bool) -> Bench:
    """What faults are tried on; all tests share it."""
    return Bench(tmp_path_factory.mktemp("faults"), ROOT / "launch" / "pretrain.py", in_full)
