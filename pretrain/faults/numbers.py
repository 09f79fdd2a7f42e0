"""What is wrong with numbers: a gradient that is none, and a clock that jumps."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

from pretrain.faults.bench import Bench, Way
from pretrain.faults.courses import Course, expect_bitwise, records, run_to, undisturbed
from pretrain.faults.faulty import NOT_FINITE_LAYER
from pretrain.faults.row import Row, Try, expect
from pretrain.faults.world import world

FSDP, DEEPSPEED = Way("fsdp", 2), Way("deepspeed", 2, bf16=True)
BAD_RANK, BAD_STEP = 1, 3
CLOCK_STEPS = 12
YEAR_SECONDS = 365 * 86_400


def _not_finite_tries(bench: Bench) -> Iterator[Try]:
    for way in bench.sample((FSDP, DEEPSPEED), 1):
        yield Try(str(way), partial(_not_finite, bench, way))


def _not_finite(bench: Bench, way: Way) -> None:
    fault = {
        "where": "a batch",
        "rank": BAD_RANK,
        "call": 2 * BAD_STEP,
    }  # the second micro-batch of that step
    more = ("train.micro_batch=3", "log.samples=true", "checkpoint.every=1")
    typed = [bench.engine(way), *bench.arguments(100, *more)]
    with world(bench.launch, bench.new_folder("nan"), typed, 2, backend=way.backend, fault=fault) as running:
        codes, _ = running.end()
    expect(codes == [1, 1], f"ended with {codes}: {running.said[-1000:]}")
    sentence = running.sentence
    for words in (
        f"Step {BAD_STEP} is not finite",
        "nothing was updated",
        f"it began on rank {BAD_RANK}",
        "micro-batch 1",
        NOT_FINITE_LAYER,
        "samples",
    ):
        expect(words in sentence, f"{words!r} is not said: {sentence}")
    path = running.run / f"not-finite-step-{BAD_STEP:08d}.json"
    details: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    step, names = (records(running.run / name)[-1] for name in ("metrics.jsonl", "samples.jsonl"))
    expect(
        details["cursor"] == step["cursor"], f"cursor {details['cursor']}, and in metrics {step['cursor']}"
    )
    # Micro-batch g of rank k is the (g * ranks + k)-th of the step.
    told = [name for index in range(2) for rank in details["samples"] for name in rank[index]]
    expect(told == names["samples"], "its samples are not those of the step")


def _clock_tries(bench: Bench) -> Iterator[Try]:
    for years in (-10, 10):
        yield Try(f"by {years} years in a run", partial(_jumped, bench, years))


def _jumped(bench: Bench, years: int) -> None:
    """On one rank, as where a machine's clock is set; by the recipe it may train for an hour."""
    more = ("train.hours=1.0", "checkpoint.every=5", "log.samples=true")
    typed = bench.arguments(CLOCK_STEPS, *more)
    fault = {"where": "clock", "rank": 0, "call": 4, "seconds": years * YEAR_SECONDS}
    folder = bench.new_folder("clock")
    running = run_to(bench, folder, typed, 2, FSDP, fault=fault)
    expect("faulty: clock" in running.said, "the clock did not jump")
    expect_bitwise(Course.of(running.run), undisturbed(bench, FSDP, 2, typed))
    lines = (running.run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    seconds = [json.loads(line)["seconds"] for line in lines]
    expect(all(0 < each < 600 for each in seconds), f"steps took {seconds} s")


ROWS = (
    Row(
        "not-finite",
        "NaN on one rank",
        "all end alike; rank, layer, samples and cursor are named, and the log has what makes the batch again",
        _not_finite_tries,
    ),
    Row(
        "clock",
        "the time of day jumps",
        "nothing is cut short, nobody is taken for dead; bit for bit",
        _clock_tries,
    ),
)
