"""What the courses start from: one small store, and the judges, each taken once."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pretrain.faults.tiny import write_tiny_store
from tests.numerics.outcome import Outcome
from tests.numerics.plain import plain_course
from tests.numerics.recipe import Setting

Judge = Callable[..., Outcome]


@pytest.fixture(scope="session")
def course_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("courses")
    # So little text that even a short course goes through the end of an epoch.
    write_tiny_store(path / "store", num_documents=100)
    return path


@pytest.fixture(scope="session")
def judge(course_folder: Path) -> Judge:
    """`judge(setting, dtype=torch.float32, compute=None)`."""
    threads = torch.get_num_threads()
    taken: dict[tuple[Setting, torch.dtype, torch.dtype | None], Outcome] = {}

    def course(
        setting: Setting, dtype: torch.dtype = torch.float32, compute: torch.dtype | None = None
    ) -> Outcome:
        if (setting, dtype, compute) not in taken:
            # Matrices of 38 columns: on a busy machine two threads wait for each other most of the time.
            torch.set_num_threads(1)
            taken[setting, dtype, compute] = plain_course(course_folder, setting, dtype, compute)
            torch.set_num_threads(threads)
        return taken[setting, dtype, compute]

    return course
