"""A gradient that is not finite, under both engines: nothing changes, and the next step is as if it had not been.

Whether an engine looks for it itself differs (`pretrain.backends.deepspeed`); what comes of it must not.
"""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from pretrain.backends.base import Backend, LossWeights, Precision, StepResult
from pretrain.build import row_stream
from pretrain.data.loader import Loader, StepBatches
from pretrain.data.order import Cursor
from pretrain.data.store import TokenStore
from tests.numerics.cells import Cell, in_one_process
from tests.numerics.courses import enter, local_weights, make_backend
from tests.numerics.recipe import GLOBAL_BATCH, SEED
from tests.worlds import run_ranks

RANKS, LR = 2, 1e-2
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
CELLS = sorted(
    [
        *(Cell("fsdp", stage, RANKS, precision) for stage in (0, 3) for precision in PRECISIONS),
        *(Cell("deepspeed", stage, RANKS, precision) for stage in (1, 2, 3) for precision in PRECISIONS),
        *(Cell("deepspeed", 2, RANKS, precision, offload="optimizer") for precision in PRECISIONS),
    ],
    key=in_one_process,
)
pytestmark = pytest.mark.slow


def courses(folder: Path) -> list[tuple[bool, bool, bool]]:
    """On a rank, by cell: whether the step was skipped, whether it changed nothing, and nor did it change the next."""
    enter()
    store, found = TokenStore.open(folder / "store"), []
    for cell in CELLS:
        stream = row_stream(store, "train", cell.setting(1).sampling, SEED)
        with Loader(
            stream, Cursor(0, 0, 0), GLOBAL_BATCH, cell.micro_batch, dist.get_rank(), RANKS
        ) as loader:
            batches = next(loader)
        good = LossWeights.of_means(batches.num_masked, batches.num_pairs)
        plain = make_backend(cell, store, folder)
        for _ in range(2):
            _step(plain, batches, good)
        expected = _weights(plain)
        backend = make_backend(cell, store, folder)
        _step(backend, batches, good)
        before = _weights(backend)
        skip = _step(backend, batches, good._replace(mlm=float("inf"))).skip
        after = _weights(backend)
        _step(backend, batches, good)
        was_skipped = skip is not None and skip.reason == "not finite"
        found.append((was_skipped, torch.equal(before, after), torch.equal(_weights(backend), expected)))
    return found


def _step(backend: Backend, batches: StepBatches, weights: LossWeights) -> StepResult:
    last = len(batches.micro_batches) - 1
    for index, batch in enumerate(batches.micro_batches):
        backend.train_micro_batch(batch, weights, last=index == last)
    return backend.step(LR)


def _weights(backend: Backend) -> torch.Tensor:
    """Of this rank, in one; zeros for what others have."""
    return torch.cat([each.flatten() for each in local_weights(backend).values()]).nan_to_num(0.0)


def test_nothing_changes(course_folder: Path) -> None:
    for found in run_ranks(courses, RANKS, course_folder, timeout=240.0):
        for cell, each in zip(CELLS, found, strict=True):
            assert each == (True, True, True), str(cell)
