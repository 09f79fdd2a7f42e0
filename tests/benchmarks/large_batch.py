"""The same text in larger batches, LAMB beside AdamW: `python -m tests.benchmarks.large_batch --help`.

Every run sees the same rows of the demo text, by the real command (FSDP, two ranks on two cores), and ends with the
validation of the product.

1. at the smallest batch, each optimizer's peak rate is the best of a grid, on a part of the rows;
2. at the others it follows from that by the square root of the batch (LAMB: You et al. 2020, section 4; Adam:
   Malladi et al. 2022), and the share of warm-up grows with the batch, as in the LAMB paper;
3. what a smaller rate than that of the rule would have given is tried too, by one seed.

Nothing is asserted. A table and a plot come out beside the JSON document. Runs that the cache has are not repeated, so
that what was interrupted goes on where it was; another store, recipe or commit starts anew, and so does a checkout
that differs from its commit.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from data_prep.demo import build_demo_store
from pretrain.data.store import TokenStore
from tests.benchmarks.amounts import whole
from tests.benchmarks.report import CHANGED, UNKNOWN, make_console, provenance, write
from tests.worlds import run_command

BATCHES, QUICK_BATCHES = (64, 256, 1024, 4096), (64, 128)
ROWS, QUICK_ROWS = 1 << 17, 512
SEEDS, QUICK_SEEDS = (42, 43), (42,)
QUICK_BYTES = 3_000_000  # of text
# The largest batch warms up over a fifth of its steps, as 32K does in the LAMB paper; the others over as many steps.
LARGEST_WARMUP = 0.2
SMALLER = (0.5, 0.25)  # times the rate of the rule
_SWEEP_PART = 4
_RANKS = 2
_SECONDS_PER_RUN = 7200.0
# beta2 0.999 remembers longer than the largest batch has steps.
_COMMON = (
    "data.seq_len=48",
    "model.preset=bert-tiny",
    "model.dropout=0.0",
    "optimizer.beta2=0.98",
    "schedule.name=linear",
    "eval.every=0",
    "eval.rows=2048",
    "checkpoint.every=0",
    "log.every=1000",
)
_RATES: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {"lamb": (2.5e-3, 5e-3, 1e-2, 2e-2, 4e-2), "adamw": (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)}
)
_FIGURES = ("mlm_loss", "mask_only_loss", "nsp_accuracy", "unigram_entropy")
_NAMES: Mapping[str, str] = MappingProxyType({"lamb": "LAMB", "adamw": "AdamW"})


@dataclass(frozen=True)
class Run:
    """One training run: rows a step, peak learning rate, steps, and what validation said at its end (nats).

    A loss that is not finite, or a run that the product ended for one, is NaN.
    """

    optimizer: str
    batch: int
    lr: float
    steps: int
    seed: int
    mlm_loss: float
    mask_only_loss: float
    nsp_accuracy: float
    unigram_entropy: float


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Runs, prints and writes; the JSON document."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.large_batch", description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder for the demo store, which stays")
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_ROWS} rows of little text: shows that it runs"
    )
    parser.add_argument("--rows", type=whole, help=f"rows that each run trains on (default: {ROWS})")
    parser.add_argument("--output", type=Path, help="file for the JSON document; table and plot go beside it")
    arguments = parser.parse_args(argv)
    quick = arguments.quick
    batches, seeds = (QUICK_BATCHES, QUICK_SEEDS) if quick else (BATCHES, SEEDS)
    rows = arguments.rows or (QUICK_ROWS if quick else ROWS)
    arguments.cache.mkdir(parents=True, exist_ok=True)
    store = arguments.cache / "demo-store"
    if not store.exists():
        build_demo_store(store, num_bytes=QUICK_BYTES if quick else None)
    result = provenance("tests.benchmarks.large_batch", argv) | {"rows": rows, "recipe": list(_COMMON)}
    course = Course(store, result["commit"], max(batches), rows)
    sweep: list[Run] = []
    runs: list[Run] = []
    smaller: list[Run] = []
    for optimizer, rates in _RATES.items():
        grid = rates[:1] if quick else rates
        tried = [course.run(optimizer, batches[0], lr, seeds[0], _SWEEP_PART) for lr in grid]
        sweep += tried
        best = min(tried, key=_rank).lr
        for batch in batches:
            lr = best * math.sqrt(batch / batches[0])
            runs += [course.run(optimizer, batch, lr, seed) for seed in seeds]
            if batch > batches[0]:
                factors = SMALLER[:1] if quick else SMALLER
                smaller += [course.run(optimizer, batch, lr * factor, seeds[0]) for factor in factors]
    for name, found in (("sweep", sweep), ("runs", runs), ("smaller_rates", smaller)):
        result[name] = [asdict(run) for run in found]
    make_console().print(_make_table(runs, smaller, rows))
    write(result, arguments.output)
    if arguments.output is not None:
        arguments.output.with_suffix(".md").write_text(_markdown(runs, smaller))
        _plot(runs, smaller, arguments.output.with_suffix(".svg"))
    return result


def _rank(run: Run) -> tuple[bool, float]:
    """Sorts what did not end well behind everything."""
    return math.isnan(run.mlm_loss), run.mlm_loss


@dataclass(frozen=True)
class Course:
    """What all runs share: store, code, the largest batch, by which they warm up, and the rows they train on."""

    store: Path
    commit: str
    largest_batch: int
    rows: int

    def run(self, optimizer: str, batch: int, lr: float, seed: int, part: int = 1) -> Run:
        """One run over the rows, or a part of them, of this checkout or from the cache."""
        rows = self.rows // part
        steps, warmup = rows // batch, max(1, round(LARGEST_WARMUP * rows / self.largest_batch))
        settings = [
            *_COMMON,
            f"seed={seed}",
            f"train.global_batch={batch}",
            f"train.steps={steps}",
            f"optimizer.name={optimizer}",
            f"optimizer.lr={lr:.6g}",
            f"schedule.warmup={warmup}",
        ]
        known = [TokenStore.open(self.store).fingerprint, self.commit, *settings]
        kept = self.store.parent / f"run-{sha256(json.dumps(known).encode()).hexdigest()[:16]}.json"
        is_known = self.commit != UNKNOWN and not self.commit.endswith(CHANGED)
        if not (is_known and kept.exists()):
            print(f"{_NAMES[optimizer]}, {batch} rows a step, rate {lr:.3g}, {steps} steps", file=sys.stderr)
            kept.write_text(json.dumps(_train(self.store, settings)))
        figures = {name: math.nan for name in _FIGURES} | json.loads(kept.read_text())
        print(f"  held-out MLM loss {figures['mlm_loss']:.3f}", file=sys.stderr)
        return Run(optimizer, batch, lr, steps, seed, **figures)


def _train(store: Path, settings: Sequence[str]) -> dict[str, float]:
    """The real command; what its last validation said, or nothing of a run that the product ended."""
    with tempfile.TemporaryDirectory(dir=store.parent, prefix="large-batch-") as folder:
        recipe, output = Path(folder) / "recipe.toml", Path(folder) / "run"
        recipe.write_text("")
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={_RANKS}",
        ]
        command += ["launch/pretrain.py", "--backend", "fsdp", "--data", str(store), "--output", str(output)]
        done = run_command([*command, "--recipe", recipe, *settings], timeout=_SECONDS_PER_RUN)
        if done.returncode != 0 and "not finite" not in done.stderr:
            raise RuntimeError(f"{' '.join(settings)} ended with {done.returncode}:\n{done.stderr}")
        if done.returncode != 0:
            return {}
        found = json.loads((output / "eval.jsonl").read_text().splitlines()[-1])
    return {name: found[name] for name in _FIGURES}


def _rows_of(runs: Sequence[Run], smaller: Sequence[Run]) -> list[tuple[str, ...]]:
    """Of each optimizer and batch: name, batch, steps, rate, the means over the seeds with their span, and the best
    that a smaller rate gave."""
    lines: list[tuple[str, ...]] = []
    for optimizer, batch in dict.fromkeys((run.optimizer, run.batch) for run in runs):
        same = [run for run in runs if (run.optimizer, run.batch) == (optimizer, batch)]
        losses = [run.mlm_loss for run in same]
        others = [run for run in smaller if (run.optimizer, run.batch) == (optimizer, batch)]
        best = min(others, key=_rank, default=None)
        lines.append(
            (
                _NAMES[optimizer],
                f"{batch:,}",
                f"{same[0].steps:,}",
                f"{same[0].lr:.3g}",
                f"{statistics.fmean(losses):.3f}",
                f"{min(losses):.3f} to {max(losses):.3f}",
                f"{statistics.fmean(run.mask_only_loss for run in same):.3f}",
                f"{statistics.fmean(run.nsp_accuracy for run in same):.3f}",
                "" if best is None else f"{best.mlm_loss:.3f} at {best.lr:.3g}",
            )
        )
    return lines


_HEADINGS = (
    "",
    "batch (rows)",
    "steps",
    "peak LR",
    "held-out MLM loss",
    "over seeds",
    "[MASK] only",
    "NSP accuracy",
    "a smaller LR gave",
)


def _make_table(runs: Sequence[Run], smaller: Sequence[Run], rows: int) -> Table:
    table = Table(title=f"{rows:,} rows of 48 tokens in batches of several sizes", title_justify="left")
    for heading in _HEADINGS:
        table.add_column(heading.replace("[", r"\["), justify="right", no_wrap=True)
    for line in _rows_of(runs, smaller):
        table.add_row(*line)
    return table


def _markdown(runs: Sequence[Run], smaller: Sequence[Run]) -> str:
    lines = [_HEADINGS, tuple("---:" for _ in _HEADINGS), *_rows_of(runs, smaller)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _plot(runs: Sequence[Run], smaller: Sequence[Run], path: Path) -> None:
    grey, colours = "#808080", {"lamb": "#d9480f", "adamw": "#1971c2"}
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for optimizer, colour in colours.items():
        own = [run for run in runs if run.optimizer == optimizer]
        batches = sorted({run.batch for run in own})
        means = [statistics.fmean(run.mlm_loss for run in own if run.batch == batch) for batch in batches]
        axes.plot(batches, means, color=colour, label=_NAMES[optimizer])
        axes.plot([run.batch for run in own], [run.mlm_loss for run in own], "o", color=colour, markersize=4)
        tried = [run for run in smaller if run.optimizer == optimizer]
        axes.plot([run.batch for run in tried], [run.mlm_loss for run in tried], "_", color=colour)
    axes.axhline(runs[0].unigram_entropy, color=grey, linestyle=":", label="unigram entropy")
    axes.set_xscale("log", base=2)
    ticks = sorted({run.batch for run in runs})
    axes.set_xticks(ticks, [f"{batch:,}" for batch in ticks])
    axes.set_xlabel("global batch (rows of 48 tokens)", color=grey)
    axes.set_ylabel("held-out MLM loss (nats)", color=grey)
    axes.tick_params(colors=grey)
    axes.legend(frameon=False, labelcolor=grey)
    for side in axes.spines.values():
        side.set_color(grey)
    # Without a background it can be read on a light page and on a dark one.
    figure.savefig(path, transparent=True, metadata={"Date": None})


if __name__ == "__main__":
    main(sys.argv[1:])
