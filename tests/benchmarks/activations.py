"""Activation memory beside what `pretrain plan` says of it: `python -m tests.benchmarks.activations --help`.

On the CPU, in one process, for each model, precision and way of activation checkpointing: real rows go once forward and
backward through the bare model. Two things are measured: what autograd saves in the forward pass (each storage once,
without weights and batch), and what torch's allocator has given out at the peak of the pass, beyond weights and batch.
The plan's figure is of the latter: recomputation brings back in the backward pass what it had not saved. Nothing is
asserted.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from pretrain import build
from pretrain.data.batches import Batch
from pretrain.data.corpus import Corpus
from pretrain.model import PretrainingModel
from pretrain.plan.passes import Passes
from pretrain.plan.rows import first_rows
from pretrain.run_arguments import add_run_arguments, resolved
from tests.benchmarks.plan_memory import write_store
from tests.benchmarks.report import make_console, provenance, write
from tests.worlds import run_command

_SECONDS = 600.0  # that a plan may take where others work too
_MIB = 1 << 20
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Cell:
    """What goes through which model."""

    model: str
    seq_len: int
    rows: int
    precision: str
    checkpointing: str

    def __str__(self) -> str:
        what = f"{self.model}, {self.rows} x {self.seq_len}, {self.precision}"
        return f"{what}, {'every 2nd layer' if self.checkpointing == '2' else self.checkpointing}"


@dataclass(frozen=True)
class Compared:
    """Bytes: saved by the forward pass, allocated at the peak, and the peak by the plan."""

    saved: int
    peak: int
    planned: int

    @property
    def ratio(self) -> float:
        return self.peak / self.planned


_SIZES = (("bert-mini", 128, 16), ("bert-small", 512, 8), ("bert-base", 512, 2))
FULL = tuple(
    Cell(*size, precision, checkpointing)
    for size in _SIZES
    for precision in ("fp32", "bf16")
    for checkpointing in ("none", "2", "full")
)
QUICK = (Cell("bert-tiny", 128, 8, "fp32", "2"),)


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Measures, prints and writes; the JSON document."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.activations", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small cell: shows that it runs")
    parser.add_argument("--cache", type=Path, help="folder for the token store")
    parser.add_argument("--output", type=Path, help="file for the JSON document")
    arguments = parser.parse_args(argv)
    result = provenance("tests.benchmarks.activations", argv) | {"cells": []}
    table = Table(title="activations of one micro-batch, MiB", title_justify="left")
    for heading in ("", "saved", "peak", "plan", "saved / plan", "peak / plan"):
        table.add_column(heading, justify="right" if heading else "left")
    with tempfile.TemporaryDirectory(dir=arguments.cache, prefix="activations-") as scratch:
        store = write_store(Path(scratch) / "store")
        for cell in QUICK if arguments.quick else FULL:
            compared = compare(cell, store, Path(scratch))
            result["cells"].append(asdict(cell) | asdict(compared) | {"ratio": compared.ratio})
            figures = (f"{each / _MIB:,.1f}" for each in asdict(compared).values())
            ratios = f"{compared.saved / compared.planned:.3f}", f"{compared.ratio:.3f}"
            table.add_row(str(cell), *figures, *ratios)
            result["farthest"] = max(abs(each["ratio"] - 1) for each in result["cells"])
            print(f"{cell}: {compared.ratio:.3f}", file=sys.stderr)
            write(result, arguments.output)
    make_console().print(table)
    print(f"farthest of peak / plan from 1: {result['farthest']:.3f}")
    return result


def compare(cell: Cell, store: Path, scratch: Path) -> Compared:
    """Both measured in this process; the plan by the command."""
    ds_config = scratch / f"{cell.precision}.json"
    ds_config.write_text(json.dumps({"bf16": {"enabled": cell.precision == "bf16"}}))
    typed = [
        *(f"--data={store}", "--backend=fsdp", f"--ds_config={ds_config}"),
        *(f"model.preset={cell.model}", f"data.seq_len={cell.seq_len}", f"train.micro_batch={cell.rows}"),
        *(f"train.global_batch={cell.rows}", f"train.activation_checkpointing={cell.checkpointing}"),
    ]
    parser = argparse.ArgumentParser()
    add_run_arguments(parser)
    recipe = resolved(parser.parse_intermixed_args(typed), 1).recipe
    corpus = Corpus.open([str(store)], [1.0], "weight")
    model = build.build_encoder(recipe, corpus.first)
    batch = first_rows(corpus, recipe, cell.rows).batch(0, cell.rows)
    passes = Passes(model, torch.device("cpu"), _DTYPES[cell.precision])
    passes.take(batch)  # what kernels keep from their first call on is none of a batch's
    return Compared(saved_bytes(passes, model, batch), passes.peak_bytes(batch), planned_bytes(typed))


def saved_bytes(passes: Passes, model: PretrainingModel, batch: Batch) -> int:
    """What autograd saves in one forward pass, each storage once; weights, and what the batch has, are left out."""
    held = [*model.parameters(), *model.buffers()]
    held += [each for each in vars(batch).values() if isinstance(each, torch.Tensor)]
    known = {each.untyped_storage().data_ptr() for each in held}
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        passes.take(batch)
    return sum(saved.values())


def planned_bytes(typed: Sequence[str]) -> int:
    """Activations, as the command says them."""
    command = [sys.executable, "-m", "pretrain", "plan", "--json", "--ranks=1", "--device=cuda", *typed]
    planned = run_command(command, timeout=_SECONDS)
    if planned.returncode != 0:
        raise RuntimeError(planned.stderr)
    found: int = json.loads(planned.stdout)["memory"]["stages"][0]["activations"]
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
