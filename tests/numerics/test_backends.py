"""Every engine at every stage takes the steps that one plain process takes, and broken ones are found out."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pretrain.backends.base import Backend
from pretrain.backends.deepspeed import DeepSpeedBackend
from pretrain.build import row_stream
from pretrain.data.loader import Loader
from pretrain.data.order import Cursor
from pretrain.data.store import TokenStore
from pretrain.sharding import ShardLayout, Slice
from tests.numerics import courses
from tests.numerics.courses import Cell, Course, Deviation, deviation, relative
from tests.tiny_store import write_tiny_store
from tests.worlds import run_ranks

TOLERANCE, WEIGHT_TOLERANCE, BF16_TOLERANCE = 1e-5, 1e-4, 1e-2
CLEARLY_RED = 1e-3
# Small sub-groups make ZeRO-3 call the optimizer several times a step; few parameters stay gathered.
SUB_GROUPS = (("sub_group_size", 5000), ("stage3_param_persistence_threshold", 100))
STAGES = (0, 1, 2, 3)
FP32_CELLS = (
    *(Cell("fsdp", stage) for stage in STAGES),
    *(Cell("deepspeed", stage) for stage in STAGES),
    Cell("deepspeed", 3, zero=SUB_GROUPS),
)
BF16_CELLS = (
    *(Cell("fsdp", stage, "bf16") for stage in STAGES),
    # Stage 0 last: its autocast stays switched on for the process.
    *(Cell("deepspeed", stage, "bf16") for stage in (1, 2, 3, 0)),
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("courses")
    write_tiny_store(path / "store")
    return path


@pytest.fixture(scope="module")
def judge(folder: Path) -> Course:
    return courses.plain_course(folder)


@pytest.fixture(scope="module")
def fp32(folder: Path) -> dict[str, Course]:
    return run_cells(folder, FP32_CELLS)


@pytest.fixture(scope="module")
def bf16(folder: Path) -> dict[str, Course]:
    return run_cells(folder, BF16_CELLS)


def run_cells(folder: Path, cells: tuple[Cell, ...]) -> dict[str, Course]:
    ranks = run_ranks(courses_of, courses.RANKS, folder, cells, timeout=240.0)
    return {name: courses.joined([rank[name] for rank in ranks]) for name in ranks[0]}


def courses_of(folder: Path, cells: tuple[Cell, ...]) -> dict[str, Course]:
    courses.enter()
    store = TokenStore.open(folder / "store")
    found = {}
    for cell in cells:
        backend = courses.make_backend(cell, store, folder)
        assert len(backend.layout.shards) > 1 or cell.zero != SUB_GROUPS
        found[str(cell)] = courses.train_course(backend, store)
    return found


def is_green(found: Deviation) -> bool:
    return found.loss < TOLERANCE and found.grad_norm < TOLERANCE and found.weights < WEIGHT_TOLERANCE


def test_the_course_is_hard(folder: Path, judge: Course) -> None:
    """Clipping acts in some steps and not in others; ranks have unequal masks and pairs; the loss falls."""
    clipped = [norm > courses.MAX_GRAD_NORM for norm in judge.grad_norms]
    assert 3 <= sum(clipped) <= courses.STEPS - 3
    assert judge.losses[-1] < judge.losses[0] - 0.5
    store = TokenStore.open(folder / "store")
    stream = row_stream(store, "train", courses.SAMPLING, courses.SEED)
    with Loader(stream, Cursor(0, 0, 0), courses.GLOBAL_BATCH, courses.MICRO_BATCH, 0, 2) as loader:
        shares = []
        for step in islice(loader, courses.STEPS):
            assert len(step.micro_batches) == 2
            shares.append(sum(batch.num_masked for batch in step.micro_batches) / step.num_masked)
    assert sum(abs(share - 0.5) > 0.02 for share in shares) >= courses.STEPS / 2


@pytest.mark.parametrize("cell", FP32_CELLS, ids=str)
def test_equals_one_plain_process(cell: Cell, judge: Course, fp32: dict[str, Course]) -> None:
    found = deviation(judge, fp32[str(cell)])
    print(found)
    assert is_green(found), found


@pytest.mark.parametrize("cell", BF16_CELLS, ids=str)
def test_bf16_stays_near(cell: Cell, judge: Course, bf16: dict[str, Course]) -> None:
    course = bf16[str(cell)]
    assert all(torch.isfinite(weight).all() for weight in course.weights.values())
    found = deviation(judge, course)
    print(found)
    assert 1e-6 < found.loss < BF16_TOLERANCE, found


class PlainLamb(torch.optim.Optimizer):
    """LAMB as everybody writes it: the trust ratio of a tensor is that of the tensor it was handed.

    The norm it clips by and reports is right, so that the trust ratio alone is to blame.
    """

    def __init__(self, parameters: Iterator[torch.nn.Parameter]) -> None:
        super().__init__(list(parameters), {"lr": 0.0})
        self.steps = 0
        self.applied_steps = 0

    def bind(self, layout: ShardLayout) -> None:
        self.layout = layout

    def begin(self, lr: float, grad_norm: Tensor | None = None, grad_scale: float = 1.0) -> None:
        self.lr, self.steps = lr, self.steps + 1

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        pieces: list[Tensor] = []
        slices: list[Slice] = []
        for shard in self.layout.shards:
            assert shard.tensor.grad is not None
            pieces += shard.views(shard.tensor.grad)
            slices += shard.slices
        self.norm = float(self.layout.global_norm(pieces, slices))
        for weight in self.param_groups[0]["params"]:
            weight.grad.mul_(min(1.0, courses.MAX_GRAD_NORM / self.norm))
            state = self.state[weight]
            first = state.setdefault("first", torch.zeros_like(weight))
            second = state.setdefault("second", torch.zeros_like(weight))
            first.lerp_(weight.grad, 0.1)
            second.mul_(0.999).addcmul_(weight.grad, weight.grad, value=0.001)
            update = first / (1 - 0.9**self.steps) / ((second / (1 - 0.999**self.steps)).sqrt() + 1e-6)
            if weight.dim() > 1 or len(self.layout.shards) == 1:
                update += courses.WEIGHT_DECAY * weight
            norms = float(weight.norm()), float(update.norm())
            weight.sub_(update, alpha=self.lr * (norms[0] / norms[1] if min(norms) > 0 else 1.0))

    def finish(self) -> tuple[float, bool]:
        self.applied_steps = self.steps
        return self.norm, False


class OwnNormOnly(ShardLayout):
    """Forgets to add the squares of the other ranks."""

    def global_norm(self, pieces: Any, slices: Any) -> Tensor:
        return self.partial_squared_norms(pieces, slices).sum().sqrt()


class OwnTrustOnly(ShardLayout):
    """Adds the gradient norm over the ranks, and the norms of weights and updates not."""

    def sum_over_group(self, table: Tensor) -> Tensor:
        return super().sum_over_group(table) if table.dim() == 0 else table


def mutants(folder: Path) -> dict[str, Course]:
    courses.enter()
    store = TokenStore.open(folder / "store")
    found = {}
    for stage in (0, 2):
        model = courses.make_model(store, folder)
        plain: Any = PlainLamb(model.encoder.parameters())
        backend: Backend = DeepSpeedBackend(model, plain, courses.engine_options(Cell("deepspeed", stage)))
        found[f"plain LAMB {stage}"] = courses.train_course(backend, store)
    for name, kind in (("own norm", OwnNormOnly), ("own trust", OwnTrustOnly)):
        # At stage 3 every parameter is cut.
        for cell in (Cell("deepspeed", 3), Cell("fsdp", 3)):
            backend = courses.make_backend(cell, store, folder)
            ours = backend.layout
            backend.optimizer.bind(kind(ours.parameters, ours.shards, ours.group, ours.replica))
            found[f"{name} {cell.backend}"] = courses.train_course(backend, store)
    return found


def test_a_broken_optimizer_is_red(folder: Path, judge: Course) -> None:
    ranks = run_ranks(mutants, courses.RANKS, folder, timeout=240.0)
    # Where no weight is cut the plain LAMB is right, so that the cut is what it fails on.
    control = deviation(judge, courses.joined([rank.pop("plain LAMB 0") for rank in ranks]))
    assert is_green(control), control
    for name, course in ranks[0].items():
        loss, norm = relative(judge.losses, course.losses), relative(judge.grad_norms, course.grad_norms)
        print(f"{name}: loss {loss:.1e}, gradient norm {norm:.1e}")
        assert loss > CLEARLY_RED, name
        assert norm > CLEARLY_RED, name
