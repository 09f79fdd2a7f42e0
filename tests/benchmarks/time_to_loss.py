"""Time to a held-out loss, ours beside HF Trainer: `python -m tests.benchmarks.time_to_loss --help`.

Both start from the same weights and train on the same text, each run in one process on two cores.

1. Each side tries settings in short runs of the same length, in the same way (`searched`): first what is its own (the
   form of Trainer's text; our optimizer), then bf16, where the CPU multiplies it, then rows of a step, beta2 and weight
   decay, and learning rates, each time on what was best so far, rows and rates by factors of two until the best lies
   between two others. The best is the one with the smallest sum of both held-out losses.
2. Trainer's two best rates get all of its time, as many steps as fit, so that the rate has decayed when the time is
   over; the better one's held-out losses are the target.
3. Ours trains runs of more and more steps with its best settings, each from the start and with a schedule of its own
   length, until one ends at the target or below, in both losses. What it took is the time of that run.
4. With another seed, of first weights, order and dropout, ours trains at that length and then Trainer all of its time;
   where ours did not reach that target it trains longer. The ratio that is stated is the smaller one.

The held-out losses are means over masked tokens of samples as ours are made, and of single lines, because a model that
was trained on lines has seldom seen a later position. A run during which other work had more than a little of the
cores is repeated, twice at most. Nothing is asserted.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from tests.benchmarks.loss_runs import (
    MOST_RUNS,
    Choice,
    Course,
    RankFunction,
    Task,
    Trained,
    our_run,
    trained,
    trainer_run,
    write_start,
)
from tests.benchmarks.report import provenance, write
from tests.benchmarks.training_peers import SEED
from tests.benchmarks.training_text import open_demo

ASKED = 4.0
SEEDS = (SEED, SEED + 1)
# Of Trainer's seconds: what our first run is meant to take, and by how much the next one is longer.
FIRST_SHARE, GROWTH = 1 / 8, 1.25
MOST_VALUES = 6  # of one setting
_LR_TIMES = "lr_times"

Doubled = Literal["rows", "lr"]
# Of a search: alternatives to what was best so far, or a setting that is halved and doubled.
Stage = tuple[Mapping[str, Any], ...] | Doubled


@dataclass(frozen=True)
class Side:
    """Who trains, and how its settings are searched; `lr_times` of an alternative multiplies the rate."""

    name: str
    on_rank: RankFunction
    first: Choice
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class Size:
    """The model, Trainer's time, that of a try as a share of it, and what is tried."""

    preset: str
    seq_len: int
    seconds: float
    try_share: float
    probe_steps: int  # that tell how many fit into a time
    heldout_rows: int
    threads: int
    most_values: int
    most_longer: int  # runs of ours
    most_runs: int  # of a disturbed one
    trainer: Side
    ours: Side


TRAINER = Side(
    "HF Trainer",
    trainer_run,
    Choice(1e-3, 16, "pieces", "adamw", beta2=0.999, weight_decay=0.0),
    (
        # A line has a quarter of a row's tokens, or less.
        ({"form": "lines", "rows": 64}, {"form": "concatenated"}),
        ({"precision": "bf16"},),
        "rows",
        ({"beta2": 0.98, "weight_decay": 0.01},),
        "lr",
    ),
)
OURS = Side(
    "ours",
    our_run,
    Choice(5e-3, 16, "packed", "lamb", beta2=0.999, weight_decay=0.01),
    (
        ({"optimizer": "adamw", _LR_TIMES: 0.2},),
        ({"precision": "bf16"},),
        "rows",
        ({"beta2": 0.98},),
        "lr",
    ),
)
SIZES = {
    False: Size("bert-mini", 128, 600.0, 0.1, 10, 512, 2, MOST_VALUES, 8, MOST_RUNS, TRAINER, OURS),
    True: Size(
        "bert-tiny",
        32,
        1.0,
        0.3,
        2,
        16,
        1,
        1,
        1,
        1,
        replace(TRAINER, stages=("lr",), first=replace(TRAINER.first, rows=8)),
        replace(OURS, stages=("lr",), first=replace(OURS.first, rows=8)),
    ),
}


@dataclass
class Runs:
    """All runs so far, and how long a step of each kind takes."""

    course: Course
    done: list[Trained] = field(default_factory=list)
    _paces: dict[tuple[Any, ...], float] = field(default_factory=dict)

    def run(self, side: Side, choice: Choice, seconds: float, probe_steps: int, seed: int) -> Trained:
        """As many steps as fit into `seconds`."""
        kind = (side.name, choice.rows, choice.form, choice.optimizer, choice.precision)
        if kind not in self._paces:
            probe = Task(choice, seed, probe_steps, is_evaluated=False)
            self._paces[kind] = trained(self.course, side.name, side.on_rank, probe).seconds / probe_steps
        task = Task(choice, seed, max(2, round(seconds / self._paces[kind])))
        found = trained(self.course, side.name, side.on_rank, task)
        self._paces[kind] = found.seconds / found.steps
        self.done.append(found)
        return found


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Runs, prints and writes; the JSON document."""
    arguments = make_parser().parse_args(argv)
    size = SIZES[arguments.quick]
    size = replace(size, seconds=arguments.seconds or size.seconds)
    store, began = open_demo(arguments.cache, arguments.quick), time.monotonic()
    result = provenance("tests.benchmarks.time_to_loss", argv) | {"preset": size.preset}
    result |= {"seq_len": size.seq_len, "seconds": size.seconds, "try_seconds": size.seconds * size.try_share}
    with tempfile.TemporaryDirectory(dir=arguments.cache, prefix="time-to-loss-") as folder:
        samples = arguments.cache / "samples"
        shared = (size.preset, size.seq_len, size.heldout_rows, size.threads, size.most_runs)
        runs = Runs(Course(store, samples, Path(folder), *shared))
        for seed in SEEDS:
            write_start(runs.course, seed)
        for found in stages_of(runs, size):
            result |= found | {"minutes": (time.monotonic() - began) / 60}
            write(result, arguments.output)  # what is measured is kept, whatever becomes of the rest
    for line in sentences(result):
        print(line)
    return result


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.time_to_loss",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cache", type=Path, required=True, help="folder for store and samples, which stay")
    parser.add_argument("--quick", action="store_true", help="seconds, on a small model: shows that it runs")
    parser.add_argument("--seconds", type=float, help="Trainer's time")
    parser.add_argument("--output", type=Path, help="file for the JSON document")
    return parser


def stages_of(runs: Runs, size: Size) -> Iterator[dict[str, Any]]:
    """What goes into the document, as it is found."""
    tries = searched(runs, size, size.trainer)
    yield {"trainer_tries": [asdict(run) for run in tries]}
    chosen = [run.choice for run in same_but("lr", tries, best_of(tries))[:2]]
    whole = [runs.run(size.trainer, each, size.seconds, size.probe_steps, SEEDS[0]) for each in chosen]
    target = best_of(whole)
    yield {"trainer_whole": [asdict(run) for run in whole], "targets": [asdict(target)]}
    tries = searched(runs, size, size.ours)
    yield {"our_tries": [asdict(run) for run in tries]}
    choice = best_of(tries).choice
    ours = longer(runs, size, choice, target, target.seconds * FIRST_SHARE, SEEDS[0])
    first = [asdict(run) for run in ours]
    yield {"our_runs": [first], "times_sooner": [ratio(target, ours[-1])]}
    if not ours[-1].reaches(target):
        return
    # The other order: ours first, for as long as it took.
    again = runs.run(size.ours, choice, ours[-1].seconds, size.probe_steps, SEEDS[1])
    other = runs.run(size.trainer, target.choice, size.seconds, size.probe_steps, SEEDS[1])
    others = [again]
    if not again.reaches(other):
        others += longer(runs, size, choice, other, again.seconds * GROWTH, SEEDS[1])
    yield {
        "targets": [asdict(target), asdict(other)],
        "our_runs": [first, [asdict(run) for run in others]],
        "times_sooner": [ratio(target, ours[-1]), ratio(other, others[-1])],
    }


def searched(runs: Runs, size: Size, side: Side) -> list[Trained]:
    """The tries of a side, in their order, stage by stage; settings that are doubled until the best is between two."""

    def run(choice: Choice) -> Trained:
        return runs.run(side, choice, size.seconds * size.try_share, size.probe_steps, SEEDS[0])

    tries = [run(side.first)]
    for stage in side.stages:
        if isinstance(stage, str):
            while (choice := next_choice(tries, stage, size.most_values)) is not None:
                tries.append(run(choice))
            continue
        best = best_of(tries).choice
        tries += [run(changed(best, change)) for change in stage if _is_able(change)]
    return tries


def _is_able(change: Mapping[str, Any]) -> bool:
    """Whether this machine multiplies in that precision; else it would only be slow."""
    return change.get("precision") != "bf16" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def changed(choice: Choice, change: Mapping[str, Any]) -> Choice:
    """A choice with some of it changed."""
    others = {name: value for name, value in change.items() if name != _LR_TIMES}
    return replace(choice, lr=choice.lr * change.get(_LR_TIMES, 1.0), **others)


def best_of(runs: Sequence[Trained]) -> Trained:
    """The smallest sum of both held-out losses: the rule for both sides."""
    return min(runs, key=lambda run: run.both)


def same_but(name: Doubled, tries: Sequence[Trained], run: Trained) -> list[Trained]:
    """The tries with all other settings of a run, the best first."""
    own: dict[str, Any] = {name: getattr(run.choice, name)}
    alike = [each for each in tries if replace(each.choice, **own) == run.choice]
    return sorted(alike, key=lambda each: each.both)


def next_choice(tries: Sequence[Trained], name: Doubled, most: int) -> Choice | None:
    """The best with half of the lowest value where that is its own, or twice the highest; None where neither is."""
    best = best_of(tries)
    values = [getattr(run.choice, name) for run in same_but(name, tries, best)]
    value = getattr(best.choice, name)
    if len(values) >= most:
        return None
    found: dict[str, Any] = {}
    if value == min(values) and value != 1:
        found[name] = value // 2 if isinstance(value, int) else value / 2
    elif value == max(values):
        found[name] = 2 * value
    return replace(best.choice, **found) if found else None


def longer(
    runs: Runs, size: Size, choice: Choice, target: Trained, seconds: float, seed: int
) -> list[Trained]:
    """Our runs, each longer than the one before, until one reaches the target."""
    found: list[Trained] = []
    while not found or (not found[-1].reaches(target) and len(found) < size.most_longer):
        found.append(runs.run(size.ours, choice, seconds, size.probe_steps, seed))
        seconds *= GROWTH
    return found


def ratio(target: Trained, ours: Trained) -> float | None:
    """How many times sooner; None where it was not reached."""
    return target.seconds / ours.seconds if ours.reaches(target) else None


def sentences(result: Mapping[str, Any]) -> Iterator[str]:
    """One for each seed, and one for both."""
    for target, ours, times in zip(
        result["targets"], result["our_runs"], result["times_sooner"], strict=True
    ):
        yield (
            f"seed {target['seed']}: HF Trainer ({_said(target['choice'])}) has {_losses(target)} after "
            f"{target['seconds']:.0f} s; ours ({_said(ours[-1]['choice'])}) {_losses(ours[-1])} after "
            f"{ours[-1]['seconds']:.0f} s: {'not reached' if times is None else f'{times:.2f} times sooner'}"
        )
    found = result["times_sooner"]
    reached = len(found) == len(SEEDS) and None not in found
    smaller = f"at least {min(found):.2f} times sooner" if reached else "not reached with every seed"
    yield (
        f"The held-out losses of HF Trainer after {result['seconds']:.0f} s: {smaller} (asked: {ASKED:g}), "
        f"{len(found)} seed(s), {result['minutes']:.0f} minutes in all"
    )


def _said(choice: Mapping[str, Any]) -> str:
    settings = (
        f"{choice['precision']}, rate {choice['lr']:g}, {choice['rows']} rows, beta2 {choice['beta2']:g}"
    )
    return f"{choice['form']}, {choice['optimizer']}, {settings}"


def _losses(run: Mapping[str, Any]) -> str:
    return f"{run['loss']:.3f} and of lines {run['loss_of_lines']:.3f}"


if __name__ == "__main__":
    main(sys.argv[1:])
