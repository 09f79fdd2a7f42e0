"""Time to a held-out loss, ours beside HF Trainer: `python -m tests.benchmarks.time_to_loss --help`.

Both start from the same weights and train on the same text by the same recipe, each run in one process on two cores:
AdamW, about 1,000 real tokens a step, warm-up and decay over the steps of the run. What is each side's own is how it
goes through them, its precision and its learning rate.

1. Trainer has single lines (`--form lines`: `run_mlm.py --line_by_line`, padded to the longest of a forward pass) in
   passes of its default of 8, as many as have the tokens of a step; or (`--form concatenated`) text end to end without
   padding, 8 rows in one pass. Ours has packed rows, of documents or of those lines.
2. Each side computes in bf16 where the CPU multiplies it and twenty steps are faster so.
3. Each side tries rates by factors of two until the best lies between two that are worse. A run of Trainer has all of
   its time, and as many steps as fit, so that the rate has decayed when the time is over; the best is that with the
   smallest sum of both held-out losses, and they are the target. A run of ours has a quarter of that time, which is
   what is asked of it; the best is that whose farther loss is nearest to the target or farthest below, because both
   must be there. Ours then tries lines instead of documents.
4. Ours trains runs of more and more steps with its best settings, each from the start and with a schedule of its own
   length, until one ends at the target or below, in both losses. What it took is the time of that run.
5. With another seed, of first weights, order and dropout, ours trains at that length and then Trainer all of its time;
   where ours did not reach that target it trains longer. The ratio that is stated is the smaller one.

The held-out losses are means over masked tokens of samples as ours are made, and of single lines, because a model that
was trained on lines has seldom seen a later position. A run during which other work had more than a little of the
cores is repeated, twice at most. Nothing is asserted.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.amounts import positive
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
from tests.benchmarks.training_text import open_demo, open_lines

Rank = Callable[[Trained], float]  # less is better

ASKED = 4.0
SEEDS = (SEED, SEED + 1)
# Of Trainer's seconds: what a try of ours takes, our first run is meant to take, and how much longer the next one.
TRY_SHARE, FIRST_SHARE, GROWTH = 1 / ASKED, 1 / 8, 1.25
ROWS = 8  # of a forward pass; Trainer's default
LINES_OF_A_STEP = 64  # of 16 tokens in the mean: as many real tokens as 8 rows of 128 have
MOST_RATES = 6
# What two documents have in common whose runs may be compared; of "machine", the second line.
SAME = ("preset", "seq_len", "seconds", "form", "versions")
SAME_MACHINE = ("cpu", "cores_used", "cores", "system")


@dataclass(frozen=True)
class Side:
    """Who trains, the choice that its search begins with, and changes of it that are tried at the best rate."""

    name: str
    on_rank: RankFunction
    first: Choice
    changes: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Size:
    """The model, Trainer's time, and how much is tried."""

    preset: str
    seq_len: int
    seconds: float
    probe_steps: int  # that tell how many fit into a time
    heldout_rows: int
    threads: int
    most_rates: int
    most_longer: int  # runs of ours
    most_runs: int  # of a disturbed one


_RECIPE = Choice(1e-3, ROWS, "concatenated", "adamw", beta2=0.999, weight_decay=0.01)
TRAINERS = {
    "lines": Side(
        "HF Trainer", trainer_run, replace(_RECIPE, form="lines", accumulation=LINES_OF_A_STEP // ROWS)
    ),
    "concatenated": Side("HF Trainer", trainer_run, _RECIPE),
}
OURS = Side("ours", our_run, replace(_RECIPE, form="packed"), ({"form": "lines"},))
SIZES = {
    False: Size("bert-mini", 128, 600.0, 20, 512, 2, MOST_RATES, 10, MOST_RUNS),
    True: Size("bert-tiny", 32, 1.0, 2, 16, 1, 1, 1, 1),
}


@dataclass
class Runs:
    """All runs so far, and how long a step of each kind takes."""

    course: Course
    done: list[Trained] = field(default_factory=list)
    _paces: dict[tuple[str, Choice], float] = field(default_factory=dict)

    def run(self, side: Side, choice: Choice, seconds: float, probe_steps: int, seed: int) -> Trained:
        """As many steps as fit into `seconds`."""
        pace = self.pace(side, choice, probe_steps)
        task = Task(choice, seed, max(2, round(seconds / pace)))
        found = trained(self.course, side.name, side.on_rank, task)
        self._paces[_kind(side, choice)] = found.seconds / found.steps
        self.done.append(found)
        return found

    def pace(self, side: Side, choice: Choice, probe_steps: int) -> float:
        """Seconds a step of the last run of this kind; without one, of a few steps."""
        kind = _kind(side, choice)
        if kind not in self._paces:
            probe = Task(choice, SEEDS[0], probe_steps, is_evaluated=False)
            self._paces[kind] = trained(self.course, side.name, side.on_rank, probe).seconds / probe_steps
        return self._paces[kind]

    def add(self, side: Side, run: Trained) -> None:
        """A run of an earlier measurement."""
        self._paces[_kind(side, run.choice)] = run.seconds / run.steps
        self.done.append(run)


def _kind(side: Side, choice: Choice) -> tuple[str, Choice]:
    """What steps of the same work have in common."""
    return side.name, replace(choice, lr=0.0)


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Runs, prints and writes; the JSON document."""
    arguments = make_parser().parse_args(argv)
    size = SIZES[arguments.quick]
    size = replace(size, seconds=arguments.seconds or size.seconds)
    store, began = open_demo(arguments.cache, arguments.quick), time.monotonic()
    result = provenance("tests.benchmarks.time_to_loss", argv) | {"preset": size.preset}
    result |= {"seq_len": size.seq_len, "seconds": size.seconds, "form": arguments.form}
    earlier: list[Trained] = []
    if arguments.trainer_tries:
        earlier, result["trainer_tries_of"] = tries_of(arguments.trainer_tries, result)
    with tempfile.TemporaryDirectory(dir=arguments.cache, prefix="time-to-loss-") as folder:
        lines, samples = open_lines(arguments.cache, store), arguments.cache / "samples"
        shared = (size.preset, size.seq_len, size.heldout_rows, size.threads, size.most_runs)
        runs = Runs(Course(store, lines, samples, Path(folder), *shared))
        for seed in SEEDS:
            write_start(runs.course, seed)
        for found in stages_of(runs, size, TRAINERS[arguments.form], earlier):
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
    parser.add_argument(
        "--form", choices=TRAINERS, default="lines", help="of Trainer's text (default: lines)"
    )
    parser.add_argument("--seconds", type=positive, help="Trainer's time")
    parser.add_argument("--output", type=Path, help="file for the JSON document")
    parser.add_argument(
        "--trainer-tries",
        type=Path,
        metavar="FILE",
        help="document of an interrupted run on this machine, whose tries of Trainer are not made again",
    )
    return parser


def tries_of(path: Path, result: Mapping[str, Any]) -> tuple[list[Trained], dict[str, str]]:
    """Trainer's runs in an earlier document, and when and by what it was made; an error where something else than the
    tries may differ."""
    earlier = json.loads(path.read_text())
    machines = [{key: each["machine"][key] for key in SAME_MACHINE} for each in (earlier, result)]
    differing = [key for key in SAME if earlier[key] != result[key]]
    differing += ["machine"] * (machines[0] != machines[1])
    if differing:
        raise SystemExit(
            f"{path}: its runs are not comparable, for {', '.join(differing)} differ; leave it out"
        )
    tries = [Trained(**run | {"choice": Choice(**run["choice"])}) for run in earlier["trainer_tries"]]
    return tries, {key: earlier[key] for key in ("command", "date", "commit")}


def stages_of(
    runs: Runs, size: Size, trainer: Side, earlier: Sequence[Trained] = ()
) -> Iterator[dict[str, Any]]:
    """What goes into the document, as it is found; `earlier` are tries of Trainer."""
    for run in earlier:
        runs.add(trainer, run)
    tries = list(earlier) or searched(runs, size, trainer, size.seconds, by_sum)
    target = min(tries, key=by_sum)
    yield {"trainer_tries": [asdict(run) for run in tries], "targets": [asdict(target)]}

    def by_target(run: Trained) -> float:
        return run.above(target)

    tries = searched(runs, size, OURS, size.seconds * TRY_SHARE, by_target)
    yield {"our_tries": [asdict(run) for run in tries]}
    choice = min(tries, key=by_target).choice
    ours = longer(runs, size, choice, target, target.seconds * FIRST_SHARE, SEEDS[0])
    first = [asdict(run) for run in ours]
    yield {"our_runs": [first], "times_sooner": [ratio(target, ours[-1])]}
    if not ours[-1].reaches(target):
        return
    # The other order: ours first, for as long as it took.
    again = runs.run(OURS, choice, ours[-1].seconds, size.probe_steps, SEEDS[1])
    other = runs.run(trainer, target.choice, size.seconds, size.probe_steps, SEEDS[1])
    others = [again]
    if not again.reaches(other):
        others += longer(runs, size, choice, other, again.seconds * GROWTH, SEEDS[1])
    yield {
        "targets": [asdict(target), asdict(other)],
        "our_runs": [first, [asdict(run) for run in others]],
        "times_sooner": [ratio(target, ours[-1]), ratio(other, others[-1])],
    }


def searched(runs: Runs, size: Size, side: Side, seconds: float, rank: Rank) -> list[Trained]:
    """The tries of a side of so many seconds, in their order: rates by factors of two, then changes at the best one."""

    def run(choice: Choice) -> Trained:
        return runs.run(side, choice, seconds, size.probe_steps, SEEDS[0])

    tries = [run(faster_precision(runs, size, side))]
    while (choice := next_rate(tries, size.most_rates, rank)) is not None:
        tries.append(run(choice))
    best = min(tries, key=rank).choice
    return [*tries, *(run(replace(best, **change)) for change in side.changes)]


def faster_precision(runs: Runs, size: Size, side: Side) -> Choice:
    """What a side begins with, in bf16 if that is faster; where the CPU does not multiply it, it would only be slow."""
    choices = [side.first]
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        choices.append(replace(side.first, precision="bf16"))
    return min(choices, key=lambda choice: runs.pace(side, choice, size.probe_steps))


def by_sum(run: Trained) -> float:
    return run.both


def next_rate(tries: Sequence[Trained], most: int, rank: Rank) -> Choice | None:
    """The best with half of the lowest rate where that is its own, or twice the highest; None where neither is."""
    if len(tries) >= most:
        return None
    best, rates = min(tries, key=rank).choice, [run.choice.lr for run in tries]
    if best.lr == min(rates):
        return replace(best, lr=best.lr / 2)
    return replace(best, lr=2 * best.lr) if best.lr == max(rates) else None


def longer(
    runs: Runs, size: Size, choice: Choice, target: Trained, seconds: float, seed: int
) -> list[Trained]:
    """Our runs, each longer than the one before, until one reaches the target."""
    found: list[Trained] = []
    while not found or (not found[-1].reaches(target) and len(found) < size.most_longer):
        found.append(runs.run(OURS, choice, seconds, size.probe_steps, seed))
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
    return f"{choice['form']}, {choice['precision']}, rate {choice['lr']:g}"


def _losses(run: Mapping[str, Any]) -> str:
    return f"{run['loss']:.3f} and of lines {run['loss_of_lines']:.3f}"


if __name__ == "__main__":
    main(sys.argv[1:])
