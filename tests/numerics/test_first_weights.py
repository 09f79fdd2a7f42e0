"""Training starts from the model's own weights, to the last bit, also where the engine computes in half precision; and
weights that are written from outside are those it computes with."""

from itertools import islice
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from pretrain.backends.base import Precision
from pretrain.build import row_stream
from pretrain.data.loader import Loader
from pretrain.data.order import Cursor
from pretrain.data.store import TokenStore
from tests.numerics.cells import Cell, in_one_process
from tests.numerics.courses import enter, local_weights, make_backend
from tests.numerics.outcome import Outcome, joined
from tests.numerics.recipe import GLOBAL_BATCH, SEED, make_model
from tests.worlds import run_ranks

RANKS = 2
HALVES: tuple[Precision, ...] = ("bf16", "fp16")
CELLS = sorted(
    [Cell("fsdp", stage, RANKS, precision) for stage in range(4) for precision in HALVES]
    # No two precisions under autocast in one process.
    + [
        Cell("deepspeed", stage, RANKS, precision) for stage in range(4) for precision in HALVES[stage == 0 :]
    ],
    key=in_one_process,
)
pytestmark = pytest.mark.slow


def first_weights(folder: Path) -> list[tuple[dict[str, torch.Tensor], list[float]]]:
    """On a rank: its pieces of the master weights before the first step, and the loss of its first rows by them, by
    their double, and by them again."""
    enter()
    store = TokenStore.open(folder / "store")
    stream = row_stream(store, "train", CELLS[0].setting(1).sampling, SEED)
    with Loader(stream, Cursor(0, 0, 0), GLOBAL_BATCH, 4, dist.get_rank(), RANKS) as loader:
        batch = next(islice(loader, 1)).micro_batches[0]
    found = []
    for cell in CELLS:
        backend = make_backend(cell, store, folder)
        weights = {name: values.clone() for name, values in local_weights(backend).items()}
        losses = [float(backend.score(batch)[0].sum())]
        for factor in (2.0, 0.5):
            for shard in backend.layout.shards:
                for view in shard.views(shard.tensor.detach()):
                    view.mul_(factor)
            backend.refresh_weights()
            losses.append(float(backend.score(batch)[0].sum()))
        found.append((weights, losses))
    return found


def test_master_weights_are_those_of_the_model(course_folder: Path) -> None:
    ranks = run_ranks(first_weights, RANKS, course_folder, timeout=240.0)
    store = TokenStore.open(course_folder / "store")
    expected = dict(make_model(store, course_folder).encoder.named_parameters())
    assert any(not torch.equal(weight.bfloat16().float(), weight) for weight in expected.values())
    for index, cell in enumerate(CELLS):
        whole = joined([Outcome([], [], rank[index][0]) for rank in ranks]).weights
        assert whole.keys() == expected.keys()
        for name, weight in expected.items():
            assert torch.equal(whole[name], weight), f"{cell}: {name}"
        # What computes is their rounding, the same under each engine.
        first, double, again = ranks[0][index][1]
        assert [first, double] == pytest.approx(ranks[0][0][1][:2], rel=5e-3), cell
        assert again == first != pytest.approx(double, rel=5e-2), cell
