"""Where the time of a training step goes, by kinds of operators: `python -m tests.benchmarks.operators --help`.

Steps through the engine, as a run makes them, under torch's profiler: what each operator takes itself, without those
that it calls, on the CPU or on the GPU. An operator's kind is its name's; what is elementwise cannot be told apart, so
that dropout is its draws alone, and its products are elementwise. What no operator accounts for is Python, and waiting.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from pretrain import build, comm
from pretrain.backends.base import Backend, LossWeights
from pretrain.comm import Placement
from pretrain.data.loader import Loader, StepBatches
from pretrain.data.order import Cursor
from pretrain.data.store import TokenStore
from tests.benchmarks.report import make_console, provenance, write
from tests.benchmarks.training_ours import OurRun, make_request
from tests.benchmarks.training_text import open_demo
from tests.worlds import run_ranks

LR = 1e-3
# Parts of names, in this order.
KINDS = {
    "optimizer": ("optimizer.step", "optimizer.zero_grad"),
    "exchange": ("c10d", "nccl", "gloo", "allreduce", "all_reduce", "all_gather", "reduce_scatter", "fsdp"),
    "attention": (
        "attention",
        "flash",
        "varlen",
        "softmax_backward_data",
        "_softmax",
        "bmm",
        "isneginf",
        "aten::all",
    ),
    "matrix products": ("mm", "linear", "matmul", "mkldnn", "nvjet", "cutlass"),
    "dropout": ("bernoulli", "dropout"),
    "normalization": ("layer_norm",),
    "activation": ("gelu", "tanh"),
    "embeddings, head and loss": ("embedding", "index", "gather", "log_softmax", "nll_loss"),
    "copies": ("copy", "aten::cat", "fill_", "zero_", "clone", "split", "memcpy", "memset", "foreach_copy"),
    "elementwise": (
        *("mul", "add", "div", "sum", "where", "neg", "eq", "sub", "sqrt", "pow", "bitwise", "masked_fill"),
        *("triton",),
    ),
}
# Names that parts of others would mislead about.
_LOSS = ("log_softmax", "nll_loss")
OTHER = "other operators"


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
    for seq_len in (128, 512)
    for settings in ((), ("train.compile=true",))
)
QUICK = (_cell("bert-tiny", 32, 8),)


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Runs, prints and writes; the JSON document."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.operators", description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder for the demo store, which stays")
    parser.add_argument("--quick", action="store_true", help="seconds, on a small model: shows that it runs")
    parser.add_argument("--steps", type=int, default=5, help="that are looked at")
    parser.add_argument("--output", type=Path, help="file for the JSON document; a table goes beside it")
    arguments = parser.parse_args(argv)
    has_gpu = torch.cuda.is_available()
    cells = QUICK if arguments.quick else ON_GPU if has_gpu else ON_CPU
    store = open_demo(arguments.cache, arguments.quick)
    result = provenance("tests.benchmarks.operators", argv) | {"cells": {}}
    result["device"] = torch.cuda.get_device_name() if has_gpu else "CPU"
    for cell in cells:
        [found] = run_ranks(shares_of, 1, store, cell, arguments.steps, timeout=1800.0)
        result["cells"][cell.name] = found
        write(result, arguments.output)
    table = make_table(result["cells"])
    make_console().print(table)
    if arguments.output is not None:
        arguments.output.with_suffix(".md").write_text(as_markdown(result["cells"]))
    return result


def shares_of(store: Path, cell: Cell, steps: int) -> dict[str, Any]:
    """On a rank: seconds of a step without the profiler, and what share each kind has under it."""
    place = Placement(dist.get_rank(), dist.get_rank(), 1, 1)
    comm.prepare_environment(place)
    with tempfile.TemporaryDirectory(prefix="operators-") as folder:
        run = OurRun(cell.settings, precision=cell.precision)
        request = make_request(store, run, Path(folder), Path(folder) / "run", place)
    recipe, opened, engine = request.config.recipe, TokenStore.open(store), build.engine_options(request)
    backend = build.build_backend("fsdp", build.build_encoder(recipe, opened), recipe, engine)
    stream = build.row_stream(opened, "train", build.sampling_options(recipe), recipe.seed)
    cut = recipe.train.global_batch, engine.micro_batch, 0, 1
    activities = [ProfilerActivity.CUDA if request.device.type == "cuda" else ProfilerActivity.CPU]
    with Loader(stream, Cursor(0, 0, 0), *cut, device=request.device) as loader:
        for _ in range(2):
            make_step(backend, next(loader), request.device)
        began = time.perf_counter()
        tokens = sum(make_step(backend, next(loader), request.device) for _ in range(steps))
        seconds = (time.perf_counter() - began) / steps
        with profile(activities=activities) as profiled:
            began = time.perf_counter()
            for _ in range(steps):
                make_step(backend, next(loader), request.device)
            whole = (time.perf_counter() - began) * 1e6
    by_kind: Counter[str] = Counter()
    for event in profiled.key_averages():
        own = event.self_device_time_total if request.device.type == "cuda" else event.self_cpu_time_total
        by_kind[kind_of(event.key)] += own
    shares = {kind: by_kind[kind] / whole for kind in (*KINDS, OTHER)}
    return {"seconds": seconds, "tokens": tokens / steps, "shares": shares}


def make_step(backend: Backend, batches: StepBatches, device: torch.device) -> int:
    """As the loop makes one; its real tokens."""
    weights = LossWeights.of_means(batches.num_masked, batches.num_pairs)
    last = len(batches.micro_batches) - 1
    for index, batch in enumerate(batches.micro_batches):
        backend.train_micro_batch(batch.to(device), weights, last=index == last)
    backend.step(LR)
    return batches.num_tokens


def kind_of(name: str) -> str:
    """Of an operator or a kernel."""
    lower = name.lower()
    if any(part in lower for part in _LOSS):
        return "embeddings, head and loss"
    return next((kind for kind, parts in KINDS.items() if any(part in lower for part in parts)), OTHER)


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
    return [*rows, ("no operator", *(f"{max(0.0, 1 - sum(each.values())):.1%}" for each in shares))]


if __name__ == "__main__":
    main(sys.argv[1:])
