"""Time to a held-out loss, ours beside HF Trainer: `python -m tests.benchmarks.time_to_loss --help`.

Both start from the same weights and train on the same text, in one process on two cores.

1. Trainer, with its default optimizer and schedule, tries a few learning rates for a part of its time each; the best
   one then gets all of its time, as many steps as fit, so that its rate has decayed when the time is over;
2. its held-out loss is the target;
3. ours tries as many settings in the shortest run that is looked at; with the best of them it trains runs of more and
   more steps, each from the start and with a schedule of its own length, until one ends at the target or below. What
   it took is the time of that run; runs that were too short are in the document.

Time is of training alone, from the first batch that is asked for to the last step; for ours the last checkpoint is in
it. The loss is the mean over the masked tokens of held-out text, by one function and under the same masks for both: of
samples as ours are made, and of single lines, because a model that was trained on lines has seldom seen a later
position. The target is reached where neither is above Trainer's. Nothing is asserted.
"""

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
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
from tests.benchmarks.report import provenance, write
from tests.benchmarks.training_ours import NO_LABEL, OurRun, make_request
from tests.benchmarks.training_peers import SEED, PeerRun, make_collator, trainer_arguments
from tests.benchmarks.training_text import FORMS, open_demo, open_samples
from tests.worlds import run_ranks

ASKED = 4.0
WARMUP_SHARE = 0.06
# Of Trainer's seconds: what our first run is meant to take, and by how much the next one is longer.
FIRST_SHARE, GROWTH = 1 / 8, 1.25
EVALUATED_ROWS, LINES_PER_ROW = 32, 8
_SECONDS = 7200.0


@dataclass(frozen=True)
class Size:
    """The model, Trainer's time and its tries, the rows of both and our settings."""

    preset: str
    seq_len: int
    seconds: float
    tries: tuple[float, ...]  # learning rates
    try_share: float  # of the time
    rows: int  # of Trainer's step
    heldout_rows: int
    settings: tuple[tuple[str, ...], ...]  # ours to try
    threads: int
    most_runs: int  # of ours


SIZES = {
    False: Size(
        preset="bert-mini",
        seq_len=128,
        seconds=600.0,
        tries=(5e-4, 1e-3, 2e-3),
        try_share=0.2,
        rows=16,
        heldout_rows=512,
        settings=tuple(
            ("train.global_batch=16", "optimizer.beta2=0.98", f"optimizer.name={name}", f"optimizer.lr={lr}")
            for name, lr in (("lamb", 5e-3), ("lamb", 1e-2), ("adamw", 2e-3))
        ),
        threads=2,
        most_runs=10,
    ),
    True: Size(
        "bert-tiny", 32, 1.0, (1e-3,), 0.5, 8, 16, (("train.global_batch=8", "optimizer.lr=1e-2"),), 1, 1
    ),
}


@dataclass(frozen=True)
class Trained:
    """A run: its seconds of training, optimizer steps and rate, and its held-out losses in nats."""

    seconds: float
    steps: int
    lr: float
    settings: tuple[str, ...]  # of ours
    loss: float  # of samples as ours are made
    loss_of_lines: float

    def reaches(self, other: "Trained") -> bool:
        return self.loss <= other.loss and self.loss_of_lines <= other.loss_of_lines


@dataclass(frozen=True)
class Course:
    """What all runs share; `folder` holds the first weights and what the runs leave."""

    store: Path
    samples: Path
    folder: Path
    size: Size

    @property
    def start(self) -> Path:
        return self.folder / "start"

    @property
    def sampling(self) -> SamplingOptions:
        return SamplingOptions(self.size.seq_len, "mlm", packing=True)


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Runs, prints and writes; the JSON document."""
    arguments = make_parser().parse_args(argv)
    size = SIZES[arguments.quick]
    size = replace(size, seconds=arguments.seconds or size.seconds)
    store = open_demo(arguments.cache, arguments.quick)
    result = provenance("tests.benchmarks.time_to_loss", argv) | {
        "form": arguments.form,
        "size": asdict(size),
    }
    with tempfile.TemporaryDirectory(dir=arguments.cache, prefix="time-to-loss-") as folder:
        course = Course(store, arguments.cache / "samples", Path(folder), size)
        write_start(course)
        peer, tries = trained_by_trainer(course, arguments.form)
        result |= {"tries": [asdict(each) for each in tries], "trainer": asdict(peer), "ours": []}
        write(result, arguments.output)
        result["times_sooner"] = None
        for run in our_runs(course, peer):
            result["ours"].append(asdict(run))
            write(result, arguments.output)
            if run.reaches(peer):
                result["times_sooner"] = peer.seconds / run.seconds
                break
    write(result, arguments.output)
    times = result["times_sooner"]
    print(
        f"HF Trainer ({arguments.form}, rate {peer.lr:g}) has {peer.loss:.3f} after {peer.seconds:.0f} s; ours "
        f"{result['ours'][-1]['loss']:.3f} after {result['ours'][-1]['seconds']:.0f} s: "
        f"{'not reached' if times is None else f'{times:.2f} times sooner'} (asked: {ASKED:g})"
    )
    return result


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.time_to_loss", description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder for store and samples, which stay")
    parser.add_argument("--quick", action="store_true", help="seconds, on a small model: shows that it runs")
    parser.add_argument("--seconds", type=float, help="Trainer's time")
    parser.add_argument("--form", choices=FORMS, default="pieces", help="the samples that Trainer gets")
    parser.add_argument("--output", type=Path, help="file for the JSON document")
    return parser


def write_start(course: Course) -> None:
    """The weights that both start from."""
    opened = TokenStore.open(course.store)
    model = build_model(
        ModelOptions(preset=course.size.preset),
        vocab_size=opened.vocab_size,
        special_ids=opened.special_ids,
        seq_len=course.size.seq_len,
        objective="mlm",
        tokenizer_path=opened.tokenizer_path,
        seed=SEED,
    )
    model.encoder.save_pretrained(course.start)


def heldout_losses(course: Course, model: Path) -> tuple[float, float]:
    """Nats per masked token without dropout, of our samples and of lines; the same rows and masks for every model."""
    opened = TokenStore.open(course.store)
    loaded = build_model(
        ModelOptions(pretrained=model),
        vocab_size=opened.vocab_size,
        special_ids=opened.special_ids,
        seq_len=course.size.seq_len,
        objective="mlm",
        tokenizer_path=opened.tokenizer_path,
        seed=SEED,
    )
    return loss_of_samples(loaded.eval(), course, opened), loss_of_lines(model, course, opened)


def loss_of_samples(model: PretrainingModel, course: Course, opened: TokenStore) -> float:
    """Of the first held-out rows, as the product's validation has it."""
    rows = build.row_stream(opened, "heldout", course.sampling, SEED).epoch_rows(0, course.size.heldout_rows)
    total = masked = 0.0
    for first in range(0, rows.num_rows, EVALUATED_ROWS):
        batch = rows.batch(first, min(EVALUATED_ROWS, rows.num_rows - first))
        sums = batch_sums(batch, model.score(batch))
        total, masked = total + sums["mlm_loss"], masked + sums["masked"]
    return total / masked


@torch.no_grad()
def loss_of_lines(folder: Path, course: Course, opened: TokenStore) -> float:
    """Of the first held-out lines, padded, by the model as transformers runs it."""
    size = course.size
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    lines = open_samples(course.samples, opened, "lines", size.seq_len, "heldout").remove_columns("length")
    collate = make_collator(opened, PeerRun("trainer", "lines", size.preset, size.seq_len, EVALUATED_ROWS))
    torch.manual_seed(SEED)  # the same masks for every model
    total = masked = 0.0
    for first in range(0, min(len(lines), size.heldout_rows * LINES_PER_ROW), EVALUATED_ROWS):
        chosen = range(first, min(first + EVALUATED_ROWS, len(lines)))
        batch = collate([lines[number] for number in chosen])
        count = int((batch["labels"] != NO_LABEL).sum())
        total, masked = total + float(model(**batch).loss) * count, masked + count
    return total / masked


def trained_by_trainer(course: Course, form: str) -> tuple[Trained, list[Trained]]:
    """The best of its tries, given all of its time; and the tries."""
    size = course.size
    peer = PeerRun("trainer", form, size.preset, size.seq_len, size.rows)
    steps = 5  # to know how many fit into a try
    seconds_per_step = _trainer(course, peer, size.tries[0], steps).seconds / steps
    in_a_try = max(2, round(size.seconds * size.try_share / seconds_per_step))
    tries = [_trainer(course, peer, lr, in_a_try) for lr in size.tries]
    best = min(tries, key=lambda each: each.loss)
    steps = max(2, round(size.seconds * best.steps / best.seconds))
    return _trainer(course, peer, best.lr, steps), tries


def our_runs(course: Course, peer: Trained) -> Any:
    """The tries, and then longer and longer ones, each when it is asked for."""
    choices, steps = course.size.settings, 5
    seconds_per_step = _ours(course, choices[0], steps).seconds / steps
    wanted = peer.seconds * FIRST_SHARE
    tries = [_ours(course, each, max(2, round(wanted / seconds_per_step))) for each in choices]
    best = min(tries, key=lambda each: each.loss)
    yield from sorted(tries, key=lambda each: each is best)
    for _ in range(course.size.most_runs):
        wanted *= GROWTH
        best = _ours(course, best.settings, max(2, round(wanted * best.steps / best.seconds)))
        yield best


def _trainer(course: Course, peer: PeerRun, lr: float, steps: int) -> Trained:
    [(seconds, *losses)] = run_ranks(trainer_run, 1, course, peer, lr, steps, timeout=_SECONDS)
    found = Trained(seconds, steps, lr, (), *losses)
    print(f"HF Trainer: {found}", file=sys.stderr)
    return found


def _ours(course: Course, chosen: tuple[str, ...], steps: int) -> Trained:
    [(seconds, lr, *losses)] = run_ranks(our_run, 1, course, chosen, steps, timeout=_SECONDS)
    found = Trained(seconds, steps, lr, chosen, *losses)
    print(f"ours: {found}", file=sys.stderr)
    return found


class _Span(TrainerCallback):
    """Trainer's seconds from its first batch to the end of its last step."""

    def __init__(self) -> None:
        self.began = self.ended = math.nan

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ended = time.perf_counter()


class _Spanned:
    """A loader of ours, whose span begins with the first batch that is asked for and ends when it is left."""

    def __init__(self, loader: Loader, span: _Span) -> None:
        self._loader, self._span = loader, span

    def __next__(self) -> StepBatches:
        if math.isnan(self._span.began):
            self._span.on_train_begin()
        return next(self._loader)

    def __enter__(self) -> "_Spanned":
        return self

    def __exit__(self, *_: object) -> None:
        self._span.on_step_end()
        self._loader.close()


def trainer_run(course: Course, peer: PeerRun, lr: float, steps: int) -> tuple[float, ...]:
    """On a rank: seconds of training, and the held-out losses after it."""
    torch.set_num_threads(course.size.threads)
    torch.manual_seed(SEED)
    opened = TokenStore.open(course.store)
    samples = open_samples(course.samples, opened, peer.form, peer.seq_len)
    span = _Span()
    with tempfile.TemporaryDirectory(dir=course.folder) as folder:
        warmup = max(1, round(WARMUP_SHARE * steps))
        arguments = trainer_arguments(peer, folder, learning_rate=lr, max_steps=steps, warmup_steps=warmup)
        trainer = Trainer(
            model=AutoModelForMaskedLM.from_pretrained(course.start),
            args=arguments,
            train_dataset=samples,
            data_collator=make_collator(opened, peer),
            callbacks=[span],
        )
        trainer.train()
        trainer.save_model(f"{folder}/model")
        return span.ended - span.began, *heldout_losses(course, Path(folder) / "model")


def our_run(course: Course, chosen: tuple[str, ...], steps: int) -> tuple[float, ...]:
    """On a rank: seconds of training, the peak rate, and the held-out losses after it."""
    torch.set_num_threads(course.size.threads)
    place = Placement(dist.get_rank(), dist.get_rank(), 1, 1)
    comm.prepare_environment(place)
    settings = (
        f"model.pretrained={course.start}",
        "data.objective=mlm",
        f"data.seq_len={course.size.seq_len}",
        f"schedule.warmup={max(1, round(WARMUP_SHARE * steps))}",
        *chosen,
        f"train.steps={steps}",
    )
    span = _Span()
    with tempfile.TemporaryDirectory(dir=course.folder) as folder:
        request = make_request(course.store, OurRun(settings), Path(folder), Path(folder) / "run", place)
        whole = build.build_loader

        def build_loader(*arguments: Any) -> Any:
            return _Spanned(whole(*arguments), span)

        with patch.object(build, "build_loader", build_loader):
            train(request, StopRequest())
        losses = heldout_losses(course, request.output / "model")
    return span.ended - span.began, request.config.recipe.optimizer.lr, *losses


if __name__ == "__main__":
    main(sys.argv[1:])
