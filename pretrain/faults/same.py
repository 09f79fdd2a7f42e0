"""Courses that must be the same: on other numbers of ranks, under the other engine, with activations recomputed."""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from pretrain.faults.bench import Bench, Way
from pretrain.faults.courses import (
    Course,
    expect_bitwise,
    newest,
    records,
    relative,
    run_to,
    undisturbed,
    whole_tensors,
)
from pretrain.faults.row import Row, Try, expect

FSDP, DEEPSPEED = Way("fsdp", 3), Way("deepspeed", 2)
ELASTIC = tuple(Way(backend, stage, cut=(3, 2)) for backend, stage in (("deepspeed", 2), ("fsdp", 3)))
RANKS_TOLERANCE, ENGINES_TOLERANCE = 1e-6, 1e-5
STEPS, ENGINE_STEPS = 16, 50


def _rank_tries(bench: Bench) -> Iterator[Try]:
    """Half of the run on two ranks; the other half on each number of them."""
    typed = [*bench.arguments(STEPS), "model.dropout=0.0", "log.samples=true"]
    stop = f"train.stop_at_step={STEPS // 2}"
    for way in bench.sample((FSDP, DEEPSPEED), 1):
        folder = bench.new_folder("ranks")
        yield Try(f"{way}, stopped", partial(run_to, bench, folder, [*typed, stop], 2, way, code=75))
        for ranks in (1, 2, 4):
            yield Try(f"{way}, on {ranks}", partial(_on, bench, folder / "run", way, ranks, typed))


def _on(bench: Bench, stopped: Path, way: Way, ranks: int, typed: list[str]) -> None:
    folder = bench.new_folder("on-ranks")
    shutil.copytree(stopped, folder / "run")
    run_to(bench, folder, typed, ranks, way)
    found, whole = Course.of(folder / "run"), undisturbed(bench, way, 2, typed)
    expect(found.values("cursor") == whole.values("cursor"), "the cursors differ")
    expect(found.samples == whole.samples, "the samples of the steps differ")
    for key in ("loss", "grad_norm"):
        far = relative(whole.values(key), found.values(key))
        expect(far < RANKS_TOLERANCE, f"{key} is off by {far:.1e}")
    if ranks == 2:
        expect_bitwise(found, whole)


def _elastic_tries(bench: Bench) -> Iterator[Try]:
    """The engine config says micro-batch and accumulation for two ranks, and nothing else a batch: one run on two,
    one, four and two ranks."""
    typed = bench.arguments_without_batch(STEPS, "model.dropout=0.0", "log.samples=true")
    for way in bench.sample(ELASTIC, 1):
        folder = bench.new_folder("elastic")
        starts = [(2, 4), (1, 8), (4, 12), (2, STEPS)] if bench.in_full else [(2, 4), (1, 10), (2, STEPS)]
        for ranks, stop in starts:
            yield Try(
                f"{way}, {ranks} to step {stop}", partial(_moved_on, bench, folder, way, ranks, stop, typed)
            )
        yield Try(f"{way}, losses", partial(_expect_kept_batch, bench, folder / "run", way, typed))
        if bench.in_full:
            yield Try(f"{way}, refused", partial(_expect_refusal, bench, folder, way, typed))


def _moved_on(bench: Bench, folder: Path, way: Way, ranks: int, stop: int, typed: list[str]) -> None:
    more, code = ([], 0) if stop == STEPS else ([f"train.stop_at_step={stop}"], 75)
    run_to(bench, folder, [*typed, *more], ranks, way, code=code)


def _expect_kept_batch(bench: Bench, run: Path, way: Way, typed: list[str]) -> None:
    found, whole = Course.of(run), undisturbed(bench, way, 2, typed)
    expect(set(found.values("global_batch")) == {12}, f"the steps had {found.values('global_batch')} rows")
    expect(found.values("cursor") == whole.values("cursor"), "the cursors differ")
    expect(found.samples == whole.samples, "the samples of the steps differ")
    for key in ("loss", "grad_norm"):
        far = relative(whole.values(key), found.values(key))
        expect(far < RANKS_TOLERANCE, f"{key} is off by {far:.1e}")


def _expect_refusal(bench: Bench, folder: Path, way: Way, typed: list[str]) -> None:
    said = run_to(bench, folder, [*typed, f"train.steps={STEPS + 1}"], 5, way, code=2).said
    expect("do not divide over 5 ranks: start 4 or 6, or say" in said, f"it said {said[-500:]}")


def _engine_tries(bench: Bench) -> Iterator[Try]:
    """A third of the steps under one, a third under the other, the last third under the first again."""
    turns = [(DEEPSPEED, FSDP, DEEPSPEED), (FSDP, Way("deepspeed", 3), FSDP)]
    typed = [*bench.arguments(ENGINE_STEPS), "model.dropout=0.0", "log.samples=true"]
    for number, ways in enumerate(bench.sample(turns, 1)):
        folder = bench.new_folder("engines")
        stops = [ENGINE_STEPS // 3, 2 * ENGINE_STEPS // 3, ENGINE_STEPS]
        for way, stop in zip(ways, stops, strict=True):
            yield Try(
                f"turn {number + 1}, {way} to step {stop}",
                partial(_taken_to, bench, folder, way, stop, typed),
            )
        yield Try(
            f"turn {number + 1}, losses",
            partial(_expect_course, bench, folder / "run", ways[0], typed),
        )


def _taken_to(bench: Bench, folder: Path, way: Way, stop: int, typed: list[str]) -> None:
    """What this engine loads, it saves again at once, in its own cut: every element must be the same."""
    if (folder / "run").exists():
        before, manifest = newest(folder / "run")
        again = bench.new_folder("loaded")
        ended = [*typed, f"train.steps={manifest.state.step}", f"--resume={before}"]
        run_to(bench, again, ended, 2, way)
        after, written = newest(again / "run")
        expect(written.state.written_by["backend"] == way.backend, "it was not loaded under this engine")
        ours, theirs = whole_tensors(after), whole_tensors(before)
        expect(ours.keys() == theirs.keys(), "other tensors were loaded")
        differing = [name for name, values in theirs.items() if not torch.equal(ours[name], values)]
        expect(not differing, f"after the load these are others: {differing[:3]}")
    if stop < ENGINE_STEPS:
        run_to(bench, folder, [*typed, f"train.stop_at_step={stop}"], 2, way, code=75)
    else:
        run_to(bench, folder, typed, 2, way)


def _expect_course(bench: Bench, run: Path, way: Way, typed: list[str]) -> None:
    found, whole = Course.of(run), undisturbed(bench, way, 2, typed)
    expect(len(found.steps) == ENGINE_STEPS, f"{len(found.steps)} steps were done")
    expect(found.samples == whole.samples, "the samples of the steps differ")
    far = relative(whole.values("loss"), found.values("loss"))
    expect(far < ENGINES_TOLERANCE, f"the losses are off by {far:.1e}")


def _recomputation_tries(bench: Bench) -> Iterator[Try]:
    typed = bench.arguments(STEPS, "log.samples=true")
    ways = (FSDP, Way("deepspeed", 2, bf16=True), DEEPSPEED, Way("fsdp", 2, bf16=True))
    for way in bench.sample(ways, 1):
        yield Try(str(way), partial(_recomputed, bench, way, typed))


def _recomputed(bench: Bench, way: Way, typed: list[str]) -> None:
    whole, folder = undisturbed(bench, way, 2, typed), bench.new_folder("recomputed")
    run_to(bench, folder, [*typed, "train.activation_checkpointing=full"], 2, way)
    expect_bitwise(Course.of(folder / "run"), whole)
    plain = bench.new_folder("no-dropout")
    run_to(bench, plain, [*typed, "model.dropout=0.0", "train.stop_at_step=1"], 2, way, code=75)
    first = records(plain / "run" / "metrics.jsonl")[0]
    expect(first["loss"] != whole.steps[0]["loss"], "dropout was off")


ROWS = (
    Row(
        "ranks",
        "resume on 1, 2 and 4 ranks (fp32, no dropout)",
        f"same cursors and sample ids; losses within {RANKS_TOLERANCE:g}; on as many, bit for bit",
        _rank_tries,
    ),
    Row(
        "elastic",
        "a run moved between 1, 2 and 4 ranks whose ds_config says the batch for two (fp32, no dropout)",
        f"the global batch stays; same cursors and sample ids; losses within {RANKS_TOLERANCE:g}; 5 ranks are refused",
        _elastic_tries,
    ),
    Row(
        "engines",
        "DeepSpeed, FSDP, DeepSpeed in one run (fp32, no dropout)",
        f"weights and moments equal after each load; losses within {ENGINES_TOLERANCE:g} over {ENGINE_STEPS} steps",
        _engine_tries,
    ),
    Row(
        "recomputation",
        "activation checkpointing with dropout",
        "bit for bit what it is without",
        _recomputation_tries,
    ),
)
