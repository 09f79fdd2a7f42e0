"""The same course of training steps under every engine, and in one plain process that knows none.

`plain_course` is the judge. It shares with the framework the rows and the model's forward pass, nothing else:
one forward over the global batch, losses divided by counts of its own, LAMB in float64 straight from
Algorithm 2 of You et al. 2020 on whole parameters, clipping and learning rate by hand.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pretrain import comm
from pretrain.backends.base import Backend, EngineOptions, Precision
from pretrain.build import BackendName, build_backend, row_stream
from pretrain.comm import Placement
from pretrain.config import EngineConfig, Recipe
from pretrain.data.loader import Loader
from pretrain.data.options import SamplingOptions
from pretrain.data.order import Cursor
from pretrain.data.store import TokenStore
from pretrain.loop import Loop, LoopOptions
from pretrain.metrics import StepRecord, Terminal
from pretrain.model import ModelOptions, PretrainingModel, build_model
from pretrain.optim import Progress, RunLength, Schedule
from pretrain.signals import StopRequest

STEPS, WARMUP_STEPS, PEAK_LR = 20, 5, 0.02
GLOBAL_BATCH, MICRO_BATCH, RANKS = 16, 4, 2
WEIGHT_DECAY, MAX_GRAD_NORM = 0.01, 1.5
SEED = 11
SAMPLING = SamplingOptions(seq_len=48, objective="nsp", packing=False, short_sample_probability=0.4)
# No size is a multiple of another, so that cuts fall inside rows and ranks get unequal pieces.
MODEL_CONFIG = {
    "model_type": "bert",
    "hidden_size": 38,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 51,
    "max_position_embeddings": 50,
    "initializer_range": 0.1,
}


@dataclass(frozen=True)
class Course:
    """Loss and gradient norm of each step, and the fp32 weights after the last."""

    losses: list[float]
    grad_norms: list[float]
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class Cell:
    """An engine to run the course under."""

    backend: BackendName
    stage: int
    precision: Precision = "fp32"
    zero: tuple[tuple[str, int], ...] = ()  # more keys of the zero_optimization block
    fp16: tuple[tuple[str, int], ...] = (("initial_scale_power", 10),)  # keys of its block, under fp16

    def __str__(self) -> str:
        more = "".join(f"-{key}={value}" for key, value in self.zero)
        return f"{self.backend}-{self.stage}-{self.precision}{more}"


def make_model(store: TokenStore, folder: Path) -> PretrainingModel:
    config = folder / f"model-{dist.get_rank() if dist.is_initialized() else 'plain'}.json"
    config.write_text(json.dumps(MODEL_CONFIG))
    return build_model(
        ModelOptions(config=config, dropout=0.0),
        vocab_size=store.vocab_size,
        special_ids=store.special_ids,
        seq_len=SAMPLING.seq_len,
        objective="nsp",
        tokenizer_path=store.tokenizer_path,
        seed=SEED,
    )


def learning_rate(step: int) -> float:
    """Of the step with this number, from 1: up in a straight line, then down to where step 21 would be 0."""
    if step <= WARMUP_STEPS:
        return PEAK_LR * step / WARMUP_STEPS
    return PEAK_LR * (STEPS + 1 - step) / (STEPS - WARMUP_STEPS)


def plain_course(folder: Path) -> Course:
    store = TokenStore.open(folder / "store")
    model = make_model(store, folder).double()
    named = dict(model.encoder.named_parameters())
    state = {name: (torch.zeros_like(weight), torch.zeros_like(weight)) for name, weight in named.items()}
    stream = row_stream(store, "train", SAMPLING, SEED)
    cursor, losses, norms = Cursor(0, 0, 0), [], []
    for step in range(1, STEPS + 1):
        rows = stream.step(cursor, GLOBAL_BATCH)
        batch, cursor = rows.batch(0, GLOBAL_BATCH), rows.next_cursor
        mlm_sum, nsp_sum = model(batch)
        loss = mlm_sum / (batch.masked_labels >= 0).sum() + nsp_sum / (batch.nsp_labels >= 0).sum()
        loss.backward()
        gradients = {name: weight.grad for name, weight in named.items() if weight.grad is not None}
        norm = float(torch.cat([gradient.flatten() for gradient in gradients.values()]).norm())
        for name, weight in named.items():
            gradient = gradients[name] * min(1.0, MAX_GRAD_NORM / norm)
            _lamb(weight, gradient, *state[name], step)
            weight.grad = None
        losses.append(loss.item())
        norms.append(norm)
    return Course(losses, norms, {name: weight.detach() for name, weight in named.items()})


@torch.no_grad()
def _lamb(weight: Tensor, gradient: Tensor, first: Tensor, second: Tensor, step: int) -> None:
    """Algorithm 2 with phi the identity; biases and LayerNorm weights do not decay."""
    first.copy_(0.9 * first + 0.1 * gradient)
    second.copy_(0.999 * second + 0.001 * gradient**2)
    ratio = (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-6)
    update = ratio + (WEIGHT_DECAY if weight.dim() > 1 else 0.0) * weight
    weight_norm, update_norm = weight.norm(), update.norm()
    trust = weight_norm / update_norm if weight_norm > 0 and update_norm > 0 else 1.0
    weight -= learning_rate(step) * trust * update


class _Recorder:
    """Stands for the metrics writer."""

    def __init__(self) -> None:
        self.records: list[StepRecord] = []

    def step(self, record: StepRecord) -> None:
        self.records.append(record)


def engine_options(cell: Cell) -> EngineOptions:
    zero = {"stage": cell.stage, **dict(cell.zero)}
    fp16 = {"enabled": True, **dict(cell.fp16)} if cell.precision == "fp16" else {}
    return EngineOptions(
        EngineConfig.model_validate({"zero_optimization": zero, "fp16": fp16}),
        cell.precision,
        MICRO_BATCH,
        GLOBAL_BATCH // MICRO_BATCH // dist.get_world_size(),
        dist.get_world_size(),
        torch.device("cpu"),
    )


def make_backend(cell: Cell, store: TokenStore, folder: Path) -> Backend:
    optimizer = {"weight_decay": WEIGHT_DECAY, "gradient_clipping": MAX_GRAD_NORM}
    recipe = Recipe.model_validate({"optimizer": optimizer})
    return build_backend(cell.backend, make_model(store, folder), recipe, engine_options(cell))


def train_course(backend: Backend, store: TokenStore) -> Course:
    """The course by the framework's own loop; the weights are this rank's pieces, NaN elsewhere."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    stream = row_stream(store, "train", SAMPLING, SEED)
    recorder: Any = _Recorder()
    options = LoopOptions(
        length=RunLength(STEPS, STEPS),
        stop_at_step=None,
        eval_every=0,
        checkpoint_every=0,
        seed=SEED,
        rank=rank,
        device=torch.device("cpu"),
        peak_flops=None,
    )
    with Loader(stream, Cursor(0, 0, 0), GLOBAL_BATCH, MICRO_BATCH, rank, ranks) as loader:
        Loop(
            options,
            loader,
            backend,
            Schedule("linear", PEAK_LR, STEPS, WARMUP_STEPS),
            None,
            lambda done, cursor: None,
            lambda batches: 0.0,
            recorder,
            Terminal(False, 1),
            StopRequest(),
        ).run(Progress())
    records = recorder.records
    return Course([r.loss for r in records], [r.grad_norm for r in records], local_weights(backend))


def local_weights(backend: Backend) -> dict[str, Tensor]:
    layout = backend.layout
    whole = {info.name: torch.full((info.numel,), torch.nan) for info in layout.parameters}
    for shard in layout.shards:
        assert shard.tensor.dtype == torch.float32
        for piece, values in zip(shard.slices, shard.views(shard.tensor.detach()), strict=True):
            whole[layout.parameters[piece.parameter].name][piece.start : piece.end] = values
    return {info.name: whole[info.name].view(info.shape) for info in layout.parameters}


def enter() -> None:
    """On a rank, before its first engine."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    comm.prepare_environment(Placement(rank, rank, ranks, ranks))


def joined(ranks: list[Course]) -> Course:
    """The pieces of all ranks put together; what several hold must be the same, and nothing may be missing."""
    for course in ranks[1:]:
        assert (course.losses, course.grad_norms) == (ranks[0].losses, ranks[0].grad_norms)
    weights = {}
    for name in ranks[0].weights:
        pieces = torch.stack([course.weights[name] for course in ranks])
        held = ~pieces.isnan()
        lowest = pieces.masked_fill(~held, torch.inf).amin(0)
        assert held.any(0).all(), f"{name} is not whole"
        assert torch.equal(lowest, pieces.masked_fill(~held, -torch.inf).amax(0)), f"{name} differs"
        weights[name] = lowest
    return Course(ranks[0].losses, ranks[0].grad_norms, weights)


@dataclass(frozen=True)
class Deviation:
    """The largest relative differences over the steps, and of a parameter in the L2 norm."""

    loss: float
    grad_norm: float
    weights: float


def relative(expected: list[float], found: list[float]) -> float:
    """The largest relative difference."""
    return max(abs(b - a) / abs(a) for a, b in zip(expected, found, strict=True))


def deviation(judge: Course, course: Course) -> Deviation:
    assert judge.weights.keys() == course.weights.keys()
    weights = max(
        float((course.weights[name].double() - weight).norm() / weight.norm())
        for name, weight in judge.weights.items()
        # Softmax takes no notice of a key's bias: its gradient is 0 but for rounding, which Adam's ratio enlarges.
        if not name.endswith("key.bias")
    )
    return Deviation(
        relative(judge.losses, course.losses), relative(judge.grad_norms, course.grad_norms), weights
    )
