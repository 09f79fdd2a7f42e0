"""Gradients that leave the model in half precision are summed in fp32, over micro-batches and over ranks.

The judge is one process whose model computes in the same precision, one micro-batch after another; it adds their
gradients in float64.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from pretrain.backends import deepspeed as deepspeed_backend
from pretrain.backends import fsdp as fsdp_backend
from pretrain.backends.base import EngineOptions, LossWeights
from pretrain.build import row_stream
from pretrain.data.loader import Loader
from pretrain.data.order import Cursor
from pretrain.data.store import TokenStore
from tests.numerics.cells import Cell, in_one_process
from tests.numerics.courses import enter, local_pieces, make_backend
from tests.numerics.outcome import Outcome, joined
from tests.numerics.recipe import BETA1, GLOBAL_BATCH, MAX_GRAD_NORM, SEED, make_model
from tests.worlds import run_ranks

pytestmark = pytest.mark.slow

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# What each of the settings is at least off, in every parameter: rounding to 8 bits, and to 11.
TOLERANCE, MUTANT = 1e-6, {"bf16": 2e-4, "fp16": 2e-5}
SCALE = {"bf16": 1.0, "fp16": 2.0**10}
# What is summed in the model's own precision: nothing, or what this setting of the engine says.
Mutant = Literal["", "reduce_dtype", "grad_accum_dtype", "communication_data_type"]
Run = tuple[Cell, Mutant]
KEYS: dict[str, tuple[Mutant, ...]] = {
    "fsdp": ("reduce_dtype",),
    "deepspeed": ("grad_accum_dtype", "communication_data_type"),
}


def half(backend: Any, stage: int, precision: Any = "bf16", **more: Any) -> Cell:
    """As many micro-batches as the global batch has rows, half of them on either rank."""
    return Cell(backend, stage, 2, precision, GLOBAL_BATCH // 2, **more)


def all_cells(in_full: bool) -> list[Cell]:
    cells = [
        *(half("fsdp", stage) for stage in (1, 2, 3)),
        half("fsdp", 2, "fp16"),
        *(half("deepspeed", stage) for stage in (1, 2, 3)),
        half("deepspeed", 2, offload="optimizer"),
    ]
    rest = [
        *(half("fsdp", stage, "fp16") for stage in (0, 1, 3)),
        half("fsdp", 0),
        *(half("deepspeed", stage, "fp16") for stage in (1, 2, 3)),
        half("deepspeed", 1, offload="optimizer"),
        half("deepspeed", 3, offload="everything"),
    ]
    return cells + rest * in_full


def runs_of(cell: Cell) -> list[Run]:
    """The cell as it is, and its mutants."""
    return [(cell, mutant) for mutant in ("", *KEYS[cell.backend])]


@contextmanager
def summed(precision: str, mutant: Mutant) -> Iterator[None]:
    """While a backend is built: the mutant's setting names the half precision instead of fp32."""
    policy, sound = fsdp_backend.MixedPrecisionPolicy, deepspeed_backend.engine_json
    keys: dict[str, Any] = {
        "grad_accum_dtype": {"data_types": {"grad_accum_dtype": precision}},
        "communication_data_type": {"communication_data_type": precision},
    }

    def half_policy(**given: Any) -> Any:
        return policy(**given | {"reduce_dtype": DTYPES[precision]})

    def half_json(options: EngineOptions) -> dict[str, Any]:
        return sound(options) | keys.get(mutant, {})

    with ExitStack() as changes:
        changes.enter_context(mock.patch.object(deepspeed_backend, "engine_json", half_json))
        if mutant == "reduce_dtype":
            changes.enter_context(mock.patch.object(fsdp_backend, "MixedPrecisionPolicy", half_policy))
        yield


def gradients_of(folder: Path, runs: list[Run]) -> list[Outcome]:
    """On a rank: the summed gradient of the first step, read off the first moment, in the place of weights."""
    enter()
    store = TokenStore.open(folder / "store")
    found = []
    for cell, mutant in runs:
        with summed(cell.precision, mutant):
            backend = make_backend(cell, store, folder)
        stream, rank = row_stream(store, "train", cell.setting(1).sampling, SEED), dist.get_rank()
        with Loader(stream, Cursor(0, 0, 0), GLOBAL_BATCH, cell.micro_batch, rank, cell.ranks) as loader:
            batches = next(loader)
        weights = LossWeights.of_means(batches.num_masked, batches.num_pairs)
        for index, batch in enumerate(batches.micro_batches, 1):
            backend.train_micro_batch(batch, weights, last=index == cell.accumulation)
        norm, skip, _ = backend.step(0.0)
        assert skip is None
        # Kingma and Ba 2015, Algorithm 1: (1 - beta1) of the clipped gradient.
        share = (1 - BETA1) * min(1.0, MAX_GRAD_NORM / norm)
        moments = [moment / share for moment in backend.optimizer.moments("exp_avg")]
        found.append(Outcome([], [norm], local_pieces(backend.layout, moments)))
    return found


def plain_gradient(folder: Path, precision: str) -> dict[str, Tensor]:
    """The judge's, by parameter, float64."""
    store = TokenStore.open(folder / "store")
    model = make_model(store, folder).to(DTYPES[precision])
    stream = row_stream(store, "train", half("fsdp", 0).setting(1).sampling, SEED)
    rows = stream.step(Cursor(0, 0, 0), GLOBAL_BATCH)
    batches = [rows.batch(row, 1) for row in range(GLOBAL_BATCH)]
    masked = sum(int((batch.masked_labels >= 0).sum()) for batch in batches)
    pairs = sum(int((batch.nsp_labels >= 0).sum()) for batch in batches)
    named = dict(model.encoder.named_parameters())
    sums = {name: torch.zeros(weight.shape, dtype=torch.float64) for name, weight in named.items()}
    for batch in batches:
        mlm_sum, nsp_sum = model(batch)
        ((mlm_sum / masked + nsp_sum / pairs) * SCALE[precision]).backward()
        for name, weight in named.items():
            assert weight.grad is not None
            assert weight.grad.dtype == DTYPES[precision]
            sums[name] += weight.grad.double() / SCALE[precision]
            weight.grad = None
    return sums


def distances(judge: dict[str, Tensor], found: dict[str, Tensor], cell: Cell) -> dict[str, float]:
    """Relative, in the L2 norm, by parameter."""
    assert judge.keys() == found.keys()
    # Under ZeRO-3 the gradients of heads and last layer are the judge's to 1e-7, but what flows back from there rounds
    # in another way, so that a micro-batch's own gradient differs before that layer.
    before_last = ("bert.embeddings.", "bert.encoder.layer.0.")
    left_out = before_last if (cell.backend, cell.stage) == ("deepspeed", 3) else ()
    return {
        name: float((found[name].double() - gradient).norm() / gradient.norm())
        for name, gradient in judge.items()
        # A key's bias has rounding for a gradient, under fp16 one so small that ZeRO-2, which divides by the number
        # of ranks before it makes fp32 of it, loses digits.
        if not name.endswith("key.bias") and not name.startswith(left_out)
    }


@pytest.fixture(scope="module")
def found(course_folder: Path, in_full: bool) -> dict[Run, dict[str, float]]:
    """The distances of all runs from the judge."""
    runs = [run for cell in sorted(all_cells(in_full), key=in_one_process) for run in runs_of(cell)]
    outcomes = run_ranks(gradients_of, 2, course_folder, runs, timeout=300.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a rank
    judges = {
        precision: plain_gradient(course_folder, precision) for precision in {c.precision for c, _ in runs}
    }
    torch.set_num_threads(threads)
    return {
        (cell, mutant): distances(
            judges[cell.precision], joined([rank[index] for rank in outcomes]).weights, cell
        )
        for index, (cell, mutant) in enumerate(runs)
    }


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cell" in metafunc.fixturenames:
        metafunc.parametrize("cell", all_cells(metafunc.config.getoption("--in-full")), ids=str)


def test_micro_batches_and_ranks_are_summed_in_fp32(cell: Cell, found: dict[Run, dict[str, float]]) -> None:
    """Whichever of its settings says half precision, every parameter's gradient shows it."""
    off = found[cell, ""]
    farthest = max(off, key=lambda name: off[name])
    print(
        f"{off[farthest]:.1e}", {key: f"{min(found[cell, key].values()):.1e}" for key in KEYS[cell.backend]}
    )
    assert off[farthest] < TOLERANCE, farthest
    for key in KEYS[cell.backend]:
        assert min(found[cell, key].values()) > MUTANT[cell.precision], key
