"""Runs of `time_to_loss`: HF Trainer and ours from the same weights on the same text, and the held-out losses after.

A run is one process. Its time is of training alone, from the first batch that is asked for to the last step; for ours
the last checkpoint is in it. What other work had of the cores meanwhile is recorded, and a run that was disturbed is
repeated. The losses are by one function and under the same masks for both, whatever the seed of the run.
"""

import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from transformers import AutoModelForMaskedLM, Trainer, TrainerCallback

from pretrain import build, comm
from pretrain.comm import Placement
from pretrain.data.loader import Loader, StepBatches
from pretrain.data.options import SamplingOptions
from pretrain.data.store import TokenStore
from pretrain.evaluate import batch_sums
from pretrain.model import ModelOptions, PretrainingModel, build_model
from pretrain.run import train
from pretrain.signals import StopRequest
from tests.benchmarks.step_clock import DISTURBED_SHARE, busy_cpu_seconds, own_cpu_seconds
from tests.benchmarks.training_ours import NO_LABEL, OurRun, make_request
from tests.benchmarks.training_peers import SEED, PeerRun, make_collator, trainer_arguments
from tests.benchmarks.training_text import open_samples
from tests.worlds import run_ranks

WARMUP_SHARE, EPS = 0.06, 1e-8
MOST_RUNS = 3  # of one kind, where others had more than a little of the cores
EVALUATED_ROWS, LINES_PER_ROW = 32, 8
_SECONDS = 7200.0


@dataclass(frozen=True)
class Choice:
    """What is chosen for a run; all else is each side's default."""

    lr: float
    rows: int  # of a forward pass
    form: str  # of the text
    optimizer: str
    beta2: float
    weight_decay: float
    precision: str = "fp32"
    accumulation: int = 1  # passes of a step


@dataclass(frozen=True)
class Trained:
    """A run: its seconds of training, optimizer steps and settings, its held-out losses in nats, and what others had of
    the cores."""

    name: str
    choice: Choice
    seed: int
    steps: int
    seconds: float
    others_share: float
    loss: float  # of samples as ours are made
    loss_of_lines: float

    @property
    def both(self) -> float:
        """The sum of both losses: what Trainer's settings are chosen by; infinite where one is no number."""
        both = self.loss + self.loss_of_lines
        return math.inf if math.isnan(both) else both

    def above(self, target: "Trained") -> float:
        """By how much the loss that is farther from the target is above it: what our settings are chosen by, because
        both must be there; infinite where one is no number."""
        above = max(self.loss - target.loss, self.loss_of_lines - target.loss_of_lines)
        return math.inf if math.isnan(self.both) else above

    def reaches(self, other: "Trained") -> bool:
        """Neither loss is above the other's."""
        return self.loss <= other.loss and self.loss_of_lines <= other.loss_of_lines


@dataclass(frozen=True)
class Course:
    """What all runs share; `folder` holds the first weights and what the runs leave."""

    store: Path
    lines: Path  # the store in which each line is a document
    samples: Path
    folder: Path
    preset: str
    seq_len: int
    heldout_rows: int
    threads: int
    most_runs: int = MOST_RUNS

    def start(self, seed: int) -> Path:
        """The weights that both sides start from."""
        return self.folder / f"start-{seed}"

    @property
    def sampling(self) -> SamplingOptions:
        return SamplingOptions(self.seq_len, "mlm", packing=True)


@dataclass(frozen=True)
class Task:
    """One run: so many steps; without an evaluation where only its pace is asked for."""

    choice: Choice
    seed: int
    steps: int
    is_evaluated: bool = True


RankFunction = Callable[[Course, Task], tuple[float, ...]]


def trained(course: Course, name: str, on_rank: RankFunction, task: Task) -> Trained:
    """A run, again where it was disturbed; the least disturbed one."""
    runs: list[Trained] = []
    while len(runs) < course.most_runs:
        [found] = run_ranks(on_rank, 1, course, task, timeout=_SECONDS)
        runs.append(Trained(name, task.choice, task.seed, task.steps, *found))
        print(runs[-1], file=sys.stderr)
        if runs[-1].others_share <= DISTURBED_SHARE:
            break
        print(f"others had {runs[-1].others_share:.0%} of the cores", file=sys.stderr)
    return min(runs, key=lambda run: run.others_share)


def write_start(course: Course, seed: int) -> None:
    """The first weights of a seed."""
    opened = TokenStore.open(course.store)
    _built(course, opened, ModelOptions(preset=course.preset), seed).encoder.save_pretrained(
        course.start(seed)
    )


def _built(course: Course, opened: TokenStore, options: ModelOptions, seed: int = SEED) -> PretrainingModel:
    return build_model(
        options,
        vocab_size=opened.vocab_size,
        special_ids=opened.special_ids,
        seq_len=course.seq_len,
        objective="mlm",
        tokenizer_path=opened.tokenizer_path,
        seed=seed,
    )


def heldout_losses(course: Course, model: Path) -> tuple[float, float]:
    """Nats per masked token without dropout, of our samples and of lines; the same rows and masks for every model."""
    opened = TokenStore.open(course.store)
    loaded = _built(course, opened, ModelOptions(pretrained=model))
    return loss_of_samples(loaded.eval(), course, opened), loss_of_lines(model, course, opened)


def loss_of_samples(model: PretrainingModel, course: Course, opened: TokenStore) -> float:
    """Of the first held-out rows, as the product's validation has it."""
    rows = build.row_stream(opened, "heldout", course.sampling, SEED).epoch_rows(0, course.heldout_rows)
    total = masked = 0.0
    for first in range(0, rows.num_rows, EVALUATED_ROWS):
        batch = rows.batch(first, min(EVALUATED_ROWS, rows.num_rows - first))
        sums = batch_sums(batch, model.score(batch))
        total, masked = total + sums["mlm_loss"], masked + sums["masked"]
    return total / masked


@torch.no_grad()
def loss_of_lines(folder: Path, course: Course, opened: TokenStore) -> float:
    """Of the first held-out lines, padded, by the model as transformers runs it."""
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    lines = open_samples(course.samples, opened, "lines", course.seq_len, "heldout").remove_columns("length")
    collate = make_collator(
        opened, PeerRun("trainer", "lines", course.preset, course.seq_len, EVALUATED_ROWS)
    )
    torch.manual_seed(SEED)  # the same masks for every model
    total = masked = 0.0
    for first in range(0, min(len(lines), course.heldout_rows * LINES_PER_ROW), EVALUATED_ROWS):
        chosen = range(first, min(first + EVALUATED_ROWS, len(lines)))
        batch = collate([lines[number] for number in chosen])
        count = int((batch["labels"] != NO_LABEL).sum())
        total, masked = total + float(model(**batch).loss) * count, masked + count
    return total / masked


class _Span(TrainerCallback):
    """From the first batch to the end of the last step: seconds, and what others had of the cores."""

    def __init__(self) -> None:
        self._began: tuple[float, float] | None = None
        self._ended = (math.nan, math.nan)

    @property
    def has_begun(self) -> bool:
        return self._began is not None

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._began = _now()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._ended = _now()

    def reading(self) -> tuple[float, float]:
        """Seconds, and the share of the cores."""
        assert self._began is not None
        seconds, others = (end - start for start, end in zip(self._began, self._ended, strict=True))
        return seconds, max(0.0, others) / seconds / len(os.sched_getaffinity(0))


def _now() -> tuple[float, float]:
    """Seconds, and CPU seconds of all other processes."""
    return time.perf_counter(), busy_cpu_seconds() - own_cpu_seconds()


class _Spanned:
    """A loader of ours, whose span begins with the first batch that is asked for and ends when it is left."""

    def __init__(self, loader: Loader, span: _Span) -> None:
        self._loader, self._span = loader, span

    def __next__(self) -> StepBatches:
        if not self._span.has_begun:
            self._span.on_train_begin()
        return next(self._loader)

    def __enter__(self) -> "_Spanned":
        return self

    def __exit__(self, *_: object) -> None:
        self._span.on_step_end()
        self._loader.close()


def trainer_run(course: Course, task: Task) -> tuple[float, ...]:
    """On a rank: seconds of training by HF Trainer, what others had meanwhile, and the held-out losses after it."""
    torch.set_num_threads(course.threads)
    torch.manual_seed(task.seed)
    choice, opened, span = task.choice, TokenStore.open(course.store), _Span()
    peer = PeerRun(
        "trainer",
        choice.form,
        course.preset,
        course.seq_len,
        choice.rows,
        choice.accumulation,
        precision=choice.precision,
    )
    samples = open_samples(course.samples, opened, choice.form, course.seq_len)
    chosen = {"learning_rate": choice.lr, "weight_decay": choice.weight_decay}
    chosen |= {"adam_beta2": choice.beta2, "adam_epsilon": EPS}
    steps = {"max_steps": task.steps, "warmup_steps": _warmup(task)}
    with tempfile.TemporaryDirectory(dir=course.folder) as folder:
        arguments = trainer_arguments(peer, folder, **chosen, **steps)
        # Its own way to say which seed shuffles the samples and draws the dropout.
        arguments.seed = arguments.data_seed = task.seed
        trainer = Trainer(
            model=AutoModelForMaskedLM.from_pretrained(course.start(task.seed)),
            args=arguments,
            train_dataset=samples,
            data_collator=make_collator(opened, peer),
            callbacks=[span],
        )
        # Else it would take the sum of the passes' means: BERT's loss does not heed the count of labels it is given.
        trainer.loss_is_scaled_for_ga = False
        trainer.train()
        trainer.save_model(f"{folder}/model")
        return *span.reading(), *_losses(course, task, Path(folder) / "model")


def our_run(course: Course, task: Task) -> tuple[float, ...]:
    """On a rank: the same by ours."""
    torch.set_num_threads(course.threads)
    place = Placement(dist.get_rank(), dist.get_rank(), 1, 1)
    comm.prepare_environment(place)
    choice, span = task.choice, _Span()
    settings = (
        f"seed={task.seed}",
        f"model.pretrained={course.start(task.seed)}",
        "data.objective=mlm",
        f"data.seq_len={course.seq_len}",
        f"schedule.warmup={_warmup(task)}",
        f"train.global_batch={choice.rows * choice.accumulation}",
        f"optimizer.name={choice.optimizer}",
        f"optimizer.lr={choice.lr}",
        f"optimizer.beta2={choice.beta2}",
        f"optimizer.eps={EPS}",
        f"optimizer.weight_decay={choice.weight_decay}",
        f"train.steps={task.steps}",
    )
    with tempfile.TemporaryDirectory(dir=course.folder) as folder:
        run = OurRun(settings, precision=choice.precision)
        store = course.lines if choice.form == "lines" else course.store
        request = make_request(store, run, Path(folder), Path(folder) / "run", place)
        whole = build.build_loader

        def build_loader(*arguments: Any) -> Any:
            return _Spanned(whole(*arguments), span)

        with patch.object(build, "build_loader", build_loader):
            train(request, StopRequest())
        return *span.reading(), *_losses(course, task, request.output / "model")


def _warmup(task: Task) -> int:
    return max(1, round(WARMUP_SHARE * task.steps))


def _losses(course: Course, task: Task, model: Path) -> tuple[float, float]:
    return heldout_losses(course, model) if task.is_evaluated else (math.nan, math.nan)
