"""A course of training steps by the framework itself: its engine, its optimizer, its loop."""

from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator

from pretrain import comm
from pretrain.backends.base import Backend, EngineOptions
from pretrain.build import build_backend, row_stream
from pretrain.checkpoint import RunState, SaveReport
from pretrain.comm import Placement
from pretrain.config import EngineConfig, Recipe
from pretrain.data.loader import Loader
from pretrain.data.order import Cursor
from pretrain.data.store import TokenStore
from pretrain.loop import Loop, LoopOptions
from pretrain.metrics import StepRecord, Terminal
from pretrain.optim import Progress, RunLength, Schedule
from pretrain.sharding import ShardLayout
from pretrain.signals import StopRequest
from tests.numerics.cells import Cell, in_one_process
from tests.numerics.outcome import Outcome, joined
from tests.numerics.recipe import (
    BETA1,
    BETA2,
    EPS,
    GLOBAL_BATCH,
    MAX_GRAD_NORM,
    SEED,
    WEIGHT_DECAY,
    make_model,
)
from tests.worlds import run_ranks


def run_cells(folder: Path, cells: list[Cell], steps: int, timeout: float) -> dict[Cell, Outcome]:
    """Every cell, those of equally many ranks in one world; `folder` holds the store. Raises AssertionError where
    ranks disagree about a loss, a norm or a weight."""
    found: dict[Cell, Outcome] = {}
    for ranks in sorted({cell.ranks for cell in cells}):
        mine = sorted((cell for cell in cells if cell.ranks == ranks), key=in_one_process)
        outcomes = run_ranks(courses_of, ranks, folder, mine, steps, timeout=timeout)
        found |= {cell: joined([rank[index] for rank in outcomes]) for index, cell in enumerate(mine)}
    return found


def courses_of(folder: Path, cells: list[Cell], steps: int) -> list[Outcome]:
    """On a rank."""
    enter()
    store = TokenStore.open(folder / "store")
    outcomes = []
    for cell in cells:
        torch._dynamo.reset()  # a run has one engine; the graphs of several would be counted together
        backend = make_backend(cell, store, folder)
        assert len(backend.layout.shards) > 1 or "sub_group_size" not in dict(cell.zero), "no sub-groups"
        outcomes.append(train_course(backend, store, cell, steps))
    return outcomes


def enter() -> None:
    """On a rank, before its first engine. DeepSpeed asks whether the CPU is fast at fp16, which does not matter."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    comm.prepare_environment(Placement(rank, rank, ranks, ranks))
    accelerator: Any = get_accelerator()
    accelerator.is_fp16_supported = lambda: True


def make_backend(cell: Cell, store: TokenStore, folder: Path) -> Backend:
    optimizer = {
        "name": cell.optimizer,
        "beta1": BETA1,
        "beta2": BETA2,
        "eps": EPS,
        "weight_decay": WEIGHT_DECAY,
        "gradient_clipping": MAX_GRAD_NORM,
    }
    recipe = Recipe.model_validate({"optimizer": optimizer})
    model = make_model(store, folder, cell.checkpointing, cell.frozen)
    return build_backend(cell.backend, model, recipe, engine_options(cell))


def engine_options(cell: Cell) -> EngineOptions:
    fp16 = {"enabled": True, **dict(cell.fp16)} if cell.precision == "fp16" else {}
    return EngineOptions(
        EngineConfig.model_validate({"zero_optimization": cell.zero_block, "fp16": fp16}),
        cell.precision,
        cell.micro_batch,
        cell.accumulation,
        cell.ranks,
        torch.device("cpu"),
        cell.compile,
    )


class _Recorder:
    """Stands for the metrics writer."""

    def __init__(self) -> None:
        self.records: list[StepRecord] = []

    def step(self, record: StepRecord) -> None:
        self.records.append(record)


class SavesNothing:
    """Stands for the saver."""

    def begin(self, state: Any) -> None: ...

    def report(self) -> SaveReport:
        return SaveReport(0.0, 0.0)

    def hear(self, finished: float, failed: float) -> None: ...

    def finish(self) -> None: ...


def train_course(backend: Backend, store: TokenStore, cell: Cell, steps: int) -> Outcome:
    """The course by the framework's own loop; the weights are this rank's pieces, NaN elsewhere."""
    setting, rank = cell.setting(steps), dist.get_rank()
    stream = row_stream(store, "train", setting.sampling, SEED)
    recorder: Any = _Recorder()
    saves_nothing: Any = SavesNothing()
    options = LoopOptions(
        length=RunLength(steps, steps),
        stop_at_step=None,
        eval_every=0,
        checkpoint_every=0,
        seed=SEED,
        rank=rank,
        device=torch.device("cpu"),
        peak_flops=None,
    )
    with Loader(stream, Cursor(0, 0, 0), GLOBAL_BATCH, cell.micro_batch, rank, cell.ranks) as loader:
        Loop(
            options,
            loader,
            backend,
            Schedule("linear", setting.peak_lr, steps, setting.warmup_steps),
            None,
            saves_nothing,
            lambda done, cursor: cast(RunState, None),
            lambda batches: 0.0,
            recorder,
            Terminal(False, 1),
            StopRequest(),
        ).run(Progress())
    records = recorder.records
    return Outcome([r.loss for r in records], [r.grad_norm for r in records], local_weights(backend))


def local_weights(backend: Backend) -> dict[str, torch.Tensor]:
    """This rank's pieces of all master weights, of what is not trained too; NaN elsewhere."""
    found: dict[str, torch.Tensor] = {}
    for layout in backend.layout.with_frozen():
        found |= local_pieces(layout, [shard.tensor.detach() for shard in layout.shards])
    return found


def local_pieces(layout: ShardLayout, tensors: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of float32 tensors shaped like the shards, this rank's pieces by parameter, NaN elsewhere."""
    whole = [torch.full((info.numel,), torch.nan) for info in layout.parameters]
    for shard, tensor in zip(layout.shards, tensors, strict=True):
        assert tensor.dtype == torch.float32
        for piece, values in zip(shard.slices, shard.views(tensor), strict=True):
            whole[piece.parameter][piece.start : piece.end] = values
    named = zip(layout.parameters, whole, strict=True)
    return {info.name: values.view(info.shape) for info, values in named}
