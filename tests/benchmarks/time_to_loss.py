"""Time to a held-out loss, ours beside HF Trainer: `python -m tests.benchmarks.time_to_loss --help`.

Both start from the same weights and train on the same text, in one process on two cores.

1. Trainer, with its default optimizer and schedule, tries a few learning rates for a part of its time each; the best
   one then gets all of its time, as many steps as fit, so that its rate has decayed when the time is over;
2. its held-out loss is the target;
3. ours trains runs of more and more steps, each from the start and with a schedule of its own length, until one ends
   at the target or below. What it took is the time of that run; runs that were too short are in the document.

Time is of training alone, from the first batch that is asked for to the last step; for ours the last checkpoint is in it.
The loss is the mean over the masked tokens of the same held-out rows under the same masks, by one function, for both.
Nothing is asserted.
"""

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from transformers import AutoModelForMaskedLM, Trainer, TrainerCallback

from pretrain import build, comm
from pretrain.comm import Placement
from pretrain.data.options import SamplingOptions
from pretrain.data.store import TokenStore
from pretrain.evaluate import batch_sums
from pretrain.model import ModelOptions, PretrainingModel, build_model
from pretrain.run import train
from pretrain.signals import StopRequest
from tests.benchmarks.report import provenance, write
from tests.benchmarks.training_ours import OurRun, make_request
from tests.benchmarks.training_peers import SEED, PeerRun, make_collator, trainer_arguments
from tests.benchmarks.training_text import FORMS, open_demo, open_samples
from tests.worlds import run_ranks

ASKED = 4.0
WARMUP_SHARE = 0.06
# Of Trainer's seconds: what our first run is meant to take, and by how much the next one is longer.
FIRST_SHARE, GROWTH, MOST_RUNS = 1 / 8, 1.25, 12
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
    settings: tuple[str, ...]
    threads: int


SIZES = {
    False: Size(
        preset="bert-mini",
        seq_len=128,
        seconds=600.0,
        tries=(5e-4, 1e-3, 2e-3),
        try_share=0.2,
        rows=16,
        heldout_rows=512,
        settings=("train.global_batch=16", "optimizer.lr=5e-3", "optimizer.beta2=0.98"),
        threads=2,
    ),
    True: Size("bert-tiny", 32, 1.0, (1e-3,), 0.5, 8, 16, ("train.global_batch=8", "optimizer.lr=1e-2"), 1),
}


@dataclass(frozen=True)
class Trained:
    """A run: its seconds of training, optimizer steps and rate, and its held-out loss."""

    seconds: float
    steps: int
    lr: float
    loss: float


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
    result = provenance("tests.benchmarks.time_to_loss", argv) | {"form": arguments.form, "size": asdict(size)}
    with tempfile.TemporaryDirectory(dir=arguments.cache, prefix="time-to-loss-") as folder:
        course = Course(store, arguments.cache / "samples", Path(folder), size)
        write_start(course)
        peer, tries = trained_by_trainer(course, arguments.form)
        result |= {"tries": [asdict(each) for each in tries], "trainer": asdict(peer), "ours": []}
        write(result, arguments.output)
        rate = 0.0
        for run in our_runs(course, peer):
            result["ours"].append(asdict(run))
            write(result, arguments.output)
            if run.loss <= peer.loss:
                rate = peer.seconds / run.seconds
                break
    result["times_sooner"] = rate
    write(result, arguments.output)
    print(
        f"HF Trainer ({arguments.form}, rate {peer.lr:g}) has {peer.loss:.3f} after {peer.seconds:.0f} s; ours "
        f"{result['ours'][-1]['loss']:.3f} after {result['ours'][-1]['seconds']:.0f} s: {rate:.2f} times sooner "
        f"(asked: {ASKED:g})"
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


def heldout_loss(course: Course, model: Path) -> float:
    """Nats per masked token, in one pass without dropout over the same rows and masks for every model."""
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
    return mean_loss(loaded.eval(), course, opened)


def mean_loss(model: PretrainingModel, course: Course, opened: TokenStore) -> float:
    rows = build.row_stream(opened, "heldout", course.sampling, SEED).epoch_rows(0, course.size.heldout_rows)
    total = masked = 0.0
    for first in range(0, rows.num_rows, course.size.rows):
        batch = rows.batch(first, min(course.size.rows, rows.num_rows - first))
        sums = batch_sums(batch, model.score(batch))
        total, masked = total + sums["mlm_loss"], masked + sums["masked"]
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
    """Longer and longer ones, each when it is asked for."""
    steps = 5
    seconds_per_step = _ours(course, steps).seconds / steps
    for number in range(MOST_RUNS):
        wanted = peer.seconds * FIRST_SHARE * GROWTH**number
        run = _ours(course, max(2, round(wanted / seconds_per_step)))
        seconds_per_step = run.seconds / run.steps
        yield run


def _trainer(course: Course, peer: PeerRun, lr: float, steps: int) -> Trained:
    [(seconds, loss)] = run_ranks(trainer_run, 1, course, peer, lr, steps, timeout=_SECONDS)
    found = Trained(seconds, steps, lr, loss)
    print(f"HF Trainer: {found}", file=sys.stderr)
    return found


def _ours(course: Course, steps: int) -> Trained:
    [(seconds, loss, lr)] = run_ranks(our_run, 1, course, steps, timeout=_SECONDS)
    found = Trained(seconds, steps, lr, loss)
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


def trainer_run(course: Course, peer: PeerRun, lr: float, steps: int) -> tuple[float, float]:
    """On a rank: seconds of training, and the held-out loss after it."""
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
        return span.ended - span.began, heldout_loss(course, Path(folder) / "model")


def our_run(course: Course, steps: int) -> tuple[float, float, float]:
    """On a rank: seconds of training, the held-out loss after it, and the peak rate."""
    torch.set_num_threads(course.size.threads)
    place = Placement(dist.get_rank(), dist.get_rank(), 1, 1)
    comm.prepare_environment(place)
    settings = (
        f"model.pretrained={course.start}",
        "data.objective=mlm",
        f"data.seq_len={course.size.seq_len}",
        f"schedule.warmup={max(1, round(WARMUP_SHARE * steps))}",
        *course.size.settings,
        f"train.steps={steps}",
    )
    span = _Span()
    with tempfile.TemporaryDirectory(dir=course.folder) as folder, ExitStack() as timed:
        request = make_request(
            course.store, OurRun(settings), Path(folder), Path(folder) / "run", place
        )
        whole = build.build_loader

        def build_loader(*arguments: Any) -> Any:
            loader = whole(*arguments)
            span.on_train_begin()
            timed.callback(patch.object(loader, "close", lambda: None).stop)
            close = loader.close

            def closed() -> None:
                span.on_step_end()
                close()

            loader.close = closed
            return loader

        timed.enter_context(patch.object(build, "build_loader", build_loader))
        train(request, StopRequest())
        loss = heldout_loss(course, request.output / "model")
    return span.ended - span.began, loss, request.config.recipe.optimizer.lr


if __name__ == "__main__":
    main(sys.argv[1:])
