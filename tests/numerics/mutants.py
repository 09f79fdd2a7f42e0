"""Courses with one thing wrong: what users meet elsewhere, and slips that a change of ours could make."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pretrain.backends.base import Backend, LossWeights, StepResult
from pretrain.backends.carried import BackendName
from pretrain.backends.deepspeed import DeepSpeedBackend
from pretrain.data.batches import Batch
from pretrain.data.store import TokenStore
from pretrain.model import PretrainingModel
from pretrain.optim import LossScaler, ShardedOptimizer
from pretrain.sharding import ShardLayout, Sliced
from tests.numerics.cells import Cell, in_one_process
from tests.numerics.courses import engine_options, enter, make_backend, train_course
from tests.numerics.outcome import Outcome
from tests.numerics.recipe import BETA1, BETA2, EPS, MAX_GRAD_NORM, WEIGHT_DECAY, make_model

NAIVE = "naive LAMB"


class NaiveLamb(torch.optim.Optimizer):
    """LAMB as everybody writes it: the trust ratio of a tensor is that of the tensor it was handed.

    The norm it clips by and reports is right, so that the trust ratio alone is to blame.
    """

    def __init__(self, parameters: Iterator[torch.nn.Parameter]) -> None:
        super().__init__(list(parameters), {"lr": 0.0})
        self.steps = self.applied_steps = 0
        self.trust_ratios: list[float] = []

    def bind(self, layout: ShardLayout) -> None:
        self.layout = layout

    def begin(self, lr: float, grad_norm: Tensor | None = None, grad_scale: float = 1.0) -> None:
        self.lr, self.steps, self.trust_ratios = lr, self.steps + 1, []

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        gradients = []
        for shard in self.layout.shards:
            assert shard.tensor.grad is not None
            gradients.append(shard.tensor.grad)
        self.norm = float(self.layout.global_norm(Sliced(self.layout.table, gradients)))
        for weight in self.param_groups[0]["params"]:
            weight.grad.mul_(min(1.0, MAX_GRAD_NORM / self.norm))
            state = self.state[weight]
            first = state.setdefault("first", torch.zeros_like(weight))
            second = state.setdefault("second", torch.zeros_like(weight))
            first.lerp_(weight.grad, 1 - BETA1)
            second.mul_(BETA2).addcmul_(weight.grad, weight.grad, value=1 - BETA2)
            update = first / (1 - BETA1**self.steps) / ((second / (1 - BETA2**self.steps)).sqrt() + EPS)
            if weight.dim() > 1 or len(self.layout.shards) == 1:
                update += WEIGHT_DECAY * weight
            norms = float(weight.norm()), float(update.norm())
            trust = norms[0] / norms[1] if min(norms) > 0 else 1.0
            self.trust_ratios.append(trust)
            weight.sub_(update, alpha=self.lr * trust)

    def finish(self) -> tuple[float, None]:
        self.applied_steps = self.steps
        return self.norm, None


class OwnNormOnly(ShardLayout):
    """Forgets to add the squares of the other ranks."""

    def global_norm(self, values: Sliced) -> Tensor:
        return self.partial_squared_norms(values).sum().sqrt()


class OwnTrustOnly(ShardLayout):
    """Adds the gradient norm over the ranks, and the norms of weights and updates not."""

    def sum_over_group(self, table: Tensor) -> Tensor:
        return super().sum_over_group(table) if table.dim() == 0 else table


class OverReplicas(ShardLayout):
    """Adds over all ranks, those included that hold the same once more."""

    def sum_over_group(self, table: Tensor) -> Tensor:
        dist.all_reduce(table)
        return table


class MeanOfMeans:
    """Divides a micro-batch's losses by its own counts, and takes the mean over micro-batches and ranks."""

    def __init__(self, backend: Backend, micro_batches: int) -> None:
        self._backend = backend
        self._micro_batches = micro_batches  # of all ranks together

    @property
    def layout(self) -> ShardLayout:
        return self._backend.layout

    @property
    def model(self) -> PretrainingModel:
        return self._backend.model

    @property
    def optimizer(self) -> ShardedOptimizer:
        return self._backend.optimizer

    @property
    def loss_scaler(self) -> LossScaler:
        return self._backend.loss_scaler

    def train_micro_batch(self, batch: Any, weights: LossWeights, *, last: bool) -> Tensor:
        assert isinstance(batch, Batch)
        own = [1 / count / self._micro_batches for count in (batch.num_masked, batch.num_pairs)]
        return self._backend.train_micro_batch(batch, LossWeights(*own), last=last)

    def step(self, lr: float) -> StepResult:
        return self._backend.step(lr)

    def measure_gradient(self) -> float:
        return self._backend.measure_gradient()

    def score(self, batch: Any) -> tuple[Tensor, ...]:
        return self._backend.score(batch)

    def refresh_weights(self) -> None:
        self._backend.refresh_weights()


def mutants(ranks: int) -> list[tuple[str, Cell]]:
    """What is broken and where, in the order in which one process runs them."""
    both: tuple[tuple[BackendName, int], ...] = (("fsdp", 3), ("deepspeed", 3))
    found = [
        (NAIVE, Cell("deepspeed", 0, ranks)),  # not broken there: no weight is cut
        (NAIVE, Cell("deepspeed", 2, ranks)),
        ("mean of means", Cell("deepspeed", 2, ranks)),
        ("mean of means", Cell("fsdp", 3, ranks, packing=True)),
        # At stage 3 every parameter is cut; at stage 0 the ranks are replicas.
        *(
            (name, Cell(backend, stage, ranks))
            for name in ("own norm", "own trust")
            for backend, stage in both
        ),
        ("over replicas", Cell("fsdp", 0, ranks)),
        ("over replicas", Cell("deepspeed", 0, ranks)),
    ]
    return sorted(found, key=lambda mutant: in_one_process(mutant[1]))


def broken_courses(folder: Path, steps: int) -> list[Outcome]:
    """On a rank: the outcomes of `mutants`."""
    enter()
    store = TokenStore.open(folder / "store")
    found = []
    for name, cell in mutants(dist.get_world_size()):
        backend = _broken(name, cell, store, folder)
        found.append(train_course(backend, store, cell, steps))
    return found


def _broken(name: str, cell: Cell, store: TokenStore, folder: Path) -> Backend:
    if name == NAIVE:
        return naive_backend(cell, store, folder)
    sound = make_backend(cell, store, folder)
    if name == "mean of means":
        return MeanOfMeans(sound, cell.ranks * cell.accumulation)
    kind = {"own norm": OwnNormOnly, "own trust": OwnTrustOnly, "over replicas": OverReplicas}[name]
    ours = sound.layout
    sound.optimizer.bind(kind(ours.parameters, ours.shards, ours.group, ours.replica))
    return sound


def naive_backend(cell: Cell, store: TokenStore, folder: Path) -> Backend:
    """DeepSpeed with the naive LAMB in it."""
    model = make_model(store, folder)
    naive: Any = NaiveLamb(model.encoder.parameters())
    return DeepSpeedBackend(model, naive, engine_options(cell))


def naive_beside_ours(folder: Path, stage: int, steps: int) -> tuple[Outcome, Outcome, list[float]]:
    """On a rank: the LAMB course by the naive LAMB and by ours, and the naive trust ratios of the last step."""
    enter()
    store, ranks = TokenStore.open(folder / "store"), dist.get_world_size()
    cell = Cell("deepspeed", stage, ranks, accumulation=4 // ranks)
    backend = naive_backend(cell, store, folder)
    optimizer: Any = backend.optimizer
    naive = train_course(backend, store, cell, steps)
    ours = train_course(make_backend(cell, store, folder), store, cell, steps)
    return naive, ours, optimizer.trust_ratios
