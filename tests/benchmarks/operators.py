"""Where the time of a training step goes, by kinds of operators: `python -m tests.benchmarks.operators --help`.

Steps through the engine, as a run makes them, under torch's profiler: what each operator takes itself, without those
that it calls, on the CPU or on the GPU. An operator's kind is its name's; what is elementwise cannot be told apart, so
that dropout is its draws alone, and its products are elementwise. What no operator accounts for is Python, and waiting.

Then the distance to the device's ceilings, kind by kind: the model FLOPs of matrix products and of attention at the
rate of a product of large matrices, the bytes of the optimizer's step at that of a copy; all else would take nothing in
an ideal step.
"""

import argparse
import json
import pickle
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from pretrain import build, comm
from pretrain.backends.base import Backend, LossWeights
from pretrain.comm import Placement
from pretrain.data.loader import Loader, StepBatches
from pretrain.data.order import Cursor
from pretrain.data.store import TokenStore
from pretrain.model.flops import TrainingFlops
from tests.benchmarks.amounts import whole
from tests.benchmarks.ceilings import copy_bytes, product_flops
from tests.benchmarks.operator_kinds import ATTENTION, KINDS, NO_OPERATOR, OPTIMIZER, OTHER, PRODUCTS, kind_of
from tests.benchmarks.optimizer import BYTES_PER_WEIGHT
from tests.benchmarks.report import make_console, provenance, write
from tests.benchmarks.training_ours import OurRun, make_request
from tests.benchmarks.training_text import open_demo
from tests.worlds import run_command

LR = 1e-3
ANSWER = "found.json"
_SECONDS = 900.0
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Of the product and the copy whose rates are the ceilings: a width, and bytes.
CEILING_SIZES = {"cuda": (8192, 1 << 32), "cpu": (2048, 1 << 28), "quick": (256, 1 << 20)}


@dataclass(frozen=True)
class Cell:
    """What is trained; `settings` are recipe keys."""

    name: str
    settings: tuple[str, ...]
    precision: str = "fp32"


def _cell(preset: str, seq_len: int, rows: int, precision: str = "fp32", *settings: str) -> Cell:
    sizes = (f"model.preset={preset}", f"data.seq_len={seq_len}", f"train.global_batch={rows}")
    name = ", ".join([preset, str(seq_len), precision, *settings])
    return Cell(name, (*sizes, f"train.micro_batch={rows}", "data.objective=mlm", *settings), precision)


ON_CPU = (
    _cell("bert-mini", 128, 64),
    _cell("bert-mini", 128, 64, "fp32", "model.dropout=0.0"),
    _cell("bert-mini", 128, 64, "bf16"),
    _cell("bert-small", 512, 16),
)
ON_GPU = tuple(
    _cell("bert-large", seq_len, 32768 // seq_len, "bf16", "model.attention_dropout=0.0", *settings)
    for seq_len in (512, 128)  # what matters most first: there may be no time for all
    for settings in ((), ("train.compile=true",))
)
QUICK = (_cell("bert-tiny", 32, 8),)
QUICK_ALL = (
    *QUICK,
    _cell("bert-tiny", 32, 8, "bf16", "model.attention_dropout=0.0"),
    _cell("bert-tiny", 32, 8, "bf16", "model.attention_dropout=0.0", "train.compile=true"),
)


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Runs, prints and writes; the JSON document."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.operators", description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder for the demo store, which stays")
    parser.add_argument("--quick", action="store_true", help="seconds, on a small model: shows that it runs")
    parser.add_argument("--all", action="store_true", help="with --quick: what a GPU would do, compiled too")
    parser.add_argument("--steps", type=whole, default=5, help="that are looked at")
    parser.add_argument("--output", type=Path, help="file for the JSON document; a table goes beside it")
    parser.add_argument("--task", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.task is not None:
        work(arguments.task)
        return {}
    has_gpu = torch.cuda.is_available()
    cells = QUICK if arguments.quick else ON_GPU if has_gpu else ON_CPU
    if arguments.quick and arguments.all:
        cells = QUICK_ALL
    store = open_demo(arguments.cache, arguments.quick)
    result = provenance("tests.benchmarks.operators", argv) | {"cells": {}}
    result["device"] = torch.cuda.get_device_name() if has_gpu else "CPU"
    width, copied = CEILING_SIZES["quick" if arguments.quick else "cuda" if has_gpu else "cpu"]
    for cell in cells:
        result["cells"][cell.name] = measured(Task(store, cell, arguments.steps, width, copied))
        write(result, arguments.output)
        if arguments.output is not None:
            gaps = [gaps_as_markdown(name, found) for name, found in result["cells"].items()]
            arguments.output.with_suffix(".md").write_text("\n".join([as_markdown(result["cells"]), *gaps]))
    console = make_console()
    console.print(make_table(result["cells"]))
    for name, found in result["cells"].items():
        console.print(make_gap_table(name, found))
    return result


@dataclass(frozen=True)
class Task:
    """What one process measures; the ceilings are of a product of matrices of that width, and of a copy of so many
    bytes."""

    store: Path
    cell: Cell
    steps: int
    width: int
    copied: int


def measured(task: Task) -> dict[str, Any]:
    """By a process of its own, which may not be forked: what has looked at a GPU cannot be forked to use it."""
    with tempfile.TemporaryDirectory(prefix="operators-") as folder:
        asked, answer = Path(folder) / "task", Path(folder) / ANSWER
        asked.write_bytes(pickle.dumps(task))
        command: list[str | Path] = [sys.executable, "-m", "tests.benchmarks.operators"]
        command += ["--cache", folder, "--task", asked]
        done = run_command(command, timeout=_SECONDS)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(answer.read_text())
        return found


def work(asked: Path) -> None:
    """In that process."""
    place = Placement(0, 0, 1, 1)
    comm.prepare_environment(place)
    comm.start(place, comm.device(place))
    task: Task = pickle.loads(asked.read_bytes())
    found = shares_of(place, task.store, task.cell, task.steps, task.width, task.copied)
    (asked.parent / ANSWER).write_text(json.dumps(found))
    comm.stop()


def shares_of(
    place: Placement, store: Path, cell: Cell, steps: int, width: int, copied: int
) -> dict[str, Any]:
    """Seconds of a step without the profiler, and what each kind has under it."""
    with tempfile.TemporaryDirectory(prefix="operators-") as folder:
        run = OurRun(cell.settings, precision=cell.precision)
        request = make_request(store, run, Path(folder), Path(folder) / "run", place)
    recipe, opened, engine = request.config.recipe, TokenStore.open(store), build.engine_options(request)
    encoder = build.build_encoder(recipe, opened)
    flops, weights = encoder.flops, sum(each.numel() for each in encoder.parameters())
    backend = build.build_backend("fsdp", encoder, recipe, engine)
    stream = build.row_stream(opened, "train", build.sampling_options(recipe), recipe.seed)
    cut = recipe.train.global_batch, engine.micro_batch, 0, 1
    with Loader(stream, Cursor(0, 0, 0), *cut, device=request.device) as loader:
        make_steps(backend, loader, request.device, 2)
        seconds, done = make_steps(backend, loader, request.device, steps)
        seconds_by_kind, whole, profiled = profiled_steps(backend, loader, request.device, steps)
    device, dtype = request.device, DTYPES[cell.precision]
    return {
        "seconds": seconds / steps,
        "tokens": sum(each.num_tokens for each in done) / steps,
        "shares": {kind: spent / whole for kind, spent in seconds_by_kind.items()},
        "seconds_by_kind": {kind: spent / steps for kind, spent in seconds_by_kind.items()},
        "flops": {kind: work / steps for kind, work in flops_of(flops, profiled).items()},
        "optimizer_bytes": BYTES_PER_WEIGHT["LAMB"] * weights,
        "product_flops": product_flops(device, dtype, width),
        "copy_bytes_per_second": copy_bytes(device, copied),
    }


def profiled_steps(
    backend: Backend, loader: Loader, device: torch.device, steps: int
) -> tuple[dict[str, float], float, list[StepBatches]]:
    """Seconds of each kind, of all, and what the steps were of."""
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiled:
        whole, done = make_steps(backend, loader, device, steps)
    by_kind: Counter[str] = Counter()
    for event in profiled.key_averages():
        if on_gpu and event.is_user_annotation:
            continue  # a name over kernels that are here themselves
        own = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        by_kind[kind_of(event.key)] += own / 1e6
    return {kind: by_kind[kind] for kind in (*KINDS, OTHER)}, whole, done


def make_steps(
    backend: Backend, loader: Loader, device: torch.device, steps: int
) -> tuple[float, list[StepBatches]]:
    """Seconds until the device is done, and what the steps were of."""
    _wait(device)
    began = time.perf_counter()
    done = [make_step(backend, next(loader), device) for _ in range(steps)]
    _wait(device)
    return time.perf_counter() - began, done


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def flops_of(flops: TrainingFlops, done: Sequence[StepBatches]) -> dict[str, float]:
    """Model FLOPs of steps: of attention, and of all other products."""
    attention = products = 0.0
    for step in done:
        attended = step.num_attended / step.num_tokens
        whole = flops.step(step.num_tokens, step.num_masked, attended, step.num_pairs)
        rest = flops.step(step.num_tokens, step.num_masked, 0.0, step.num_pairs)
        attention, products = attention + whole - rest, products + rest
    return {PRODUCTS: products, ATTENTION: attention}


def make_step(backend: Backend, batches: StepBatches, device: torch.device) -> StepBatches:
    """As the loop makes one; what it was of."""
    weights = LossWeights.of_means(batches.num_masked, batches.num_pairs)
    last = len(batches.micro_batches) - 1
    for index, batch in enumerate(batches.micro_batches):
        backend.train_micro_batch(batch.to(device), weights, last=index == last)
    backend.step(LR)
    return batches


def make_table(cells: dict[str, Any]) -> Table:
    table = Table(title="shares of a step's time, by kinds of operators", title_justify="left")
    table.add_column("")
    for name in cells:
        table.add_column(name, justify="right")
    for row in _rows(cells):
        table.add_row(*row)
    return table


def as_markdown(cells: dict[str, Any]) -> str:
    heads: list[tuple[str, ...]] = [("", *cells), ("---", *["---:"] * len(cells))]
    return "".join(f"| {' | '.join(row)} |\n" for row in (*heads, *_rows(cells)))


def _rows(cells: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row for each kind that has a share, and what no operator accounts for."""
    shares = [found["shares"] for found in cells.values()]
    rows = [
        (kind, *(f"{each[kind]:.1%}" for each in shares))
        for kind in (*KINDS, OTHER)
        if any(each[kind] >= 5e-4 for each in shares)
    ]
    return [*rows, (NO_OPERATOR, *(f"{max(0.0, 1 - sum(each.values())):.1%}" for each in shares))]


def gaps_of(found: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """By kind: seconds of a step, and what its work would take at the ceiling; what no operator accounts for last."""
    at_ceiling = {kind: work / found["product_flops"] for kind, work in found["flops"].items()}
    at_ceiling[OPTIMIZER] = found["optimizer_bytes"] / found["copy_bytes_per_second"]
    taken = {kind: spent for kind, spent in found["seconds_by_kind"].items() if spent or kind in at_ceiling}
    gaps = {kind: (spent, at_ceiling.get(kind, 0.0)) for kind, spent in taken.items()}
    return gaps | {NO_OPERATOR: (max(0.0, found["seconds"] - sum(taken.values())), 0.0)}


def _gap_rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """The largest gap first, then the whole step; achieved FLOP/s where they are known."""
    gaps = sorted(gaps_of(found).items(), key=lambda item: item[1][1] - item[1][0])
    flops = found["flops"]
    whole = (found["seconds"], sum(ideal for _, (_, ideal) in gaps))
    rows: list[tuple[str, ...]] = []
    for kind, (spent, ideal) in (*gaps, ("a step", whole)):
        work = sum(flops.values()) if kind == "a step" else flops.get(kind)
        rate = work / spent if work and spent else None
        rows.append(
            (
                kind,
                f"{spent * 1e3:,.2f}",
                f"{ideal * 1e3:,.2f}",
                f"{(spent - ideal) * 1e3:,.2f}",
                f"{(spent - ideal) / found['seconds']:.1%}",
                "" if rate is None else f"{rate / 1e12:,.3g}",
                "" if rate is None else f"{rate / found['product_flops']:.1%}",
            )
        )
    return rows


_GAP_HEADS = ("ms a step", "at the ceiling", "gap", "of the step", "TFLOP/s", "of the product")


def make_gap_table(name: str, found: dict[str, Any]) -> Table:
    table = Table(title=f"the distance to the ceilings, {name}", title_justify="left")
    table.add_column("")
    for heading in _GAP_HEADS:
        table.add_column(heading, justify="right")
    for row in _gap_rows(found):
        table.add_row(*row)
    return table


def gaps_as_markdown(name: str, found: dict[str, Any]) -> str:
    rows = ((name, *_GAP_HEADS), ("---", *["---:"] * len(_GAP_HEADS)), *_gap_rows(found))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    main(sys.argv[1:])
