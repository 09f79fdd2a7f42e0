"""Peak memory of real runs beside what `pretrain plan` says of them: `python -m tests.benchmarks.plan_memory --help`.

Two gloo ranks on the CPU, each a process of its own, started by torchrun; every engine, stage and precision, with and
without recomputation. Of a run it is the most that its fullest rank ever had resident (VmHWM). The model is large
enough for weights, gradients and activations to matter beside the libraries. Nothing is asserted.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from pretrain.data.store import Documents, SpecialIds, StoreLayout, StoreWriter
from tests.benchmarks.processes import watch
from tests.benchmarks.report import make_console, provenance, write
from tests.end_to_end.runs import launcher_command
from tests.worlds import run_command

NUM_RANKS = 2
NUM_STEPS = 8
VOCAB_SIZE = 8192
SEQ_LEN = 128
_SECONDS = 600.0  # that a plan may take where others work too
_MIB = 1 << 20
_MODELS = {False: (512, 6), True: (256, 2)}  # width and layers; the short form's
_FIRST_TEXT_ID = 5


@dataclass(frozen=True)
class Cell:
    """How a run computes."""

    backend: str
    stage: int
    precision: str
    recomputation: str

    def __str__(self) -> str:
        return f"{self.backend} {self.stage}, {self.precision}, {self.recomputation}"


@dataclass(frozen=True)
class Compared:
    """Bytes of the fullest rank."""

    predicted: int
    measured: int
    measured_by_rank: tuple[int, ...]

    @property
    def ratio(self) -> float:
        return self.predicted / self.measured


FULL = tuple(
    Cell(backend, stage, precision, recomputation)
    for recomputation in ("none", "full")
    for precision in ("fp32", "bf16")
    for backend in ("deepspeed", "fsdp")
    for stage in range(4)
)
QUICK = (Cell("fsdp", 2, "fp32", "none"),)


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Runs, prints and writes; the JSON document."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.plan_memory", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small cell: shows that it runs")
    parser.add_argument("--cache", type=Path, help="folder for what the runs leave behind")
    parser.add_argument("--output", type=Path, help="file for the JSON document")
    arguments = parser.parse_args(argv)
    result = provenance("tests.benchmarks.plan_memory", argv)
    width, layers = _MODELS[arguments.quick]
    result |= {"ranks": NUM_RANKS, "hidden_size": width, "layers": layers, "cells": []}
    table = Table(title=f"peak of the fullest rank, {layers} layers of {width}, MiB", title_justify="left")
    for heading in ("", "plan", "measured", "plan / measured"):
        table.add_column(heading, justify="right" if heading else "left")
    with tempfile.TemporaryDirectory(dir=arguments.cache, prefix="plan-memory-") as scratch:
        folder = Path(scratch)
        store, model = write_store(folder / "store"), write_model(folder / "model.json", width, layers)
        plans: dict[Cell, dict[int, int]] = {}
        for number, cell in enumerate(QUICK if arguments.quick else FULL):
            setting = replace(cell, stage=0)
            typed = run_arguments(cell, store, model, folder / str(number))
            if setting not in plans:  # one plan is of all stages
                plans[setting] = planned_peaks(typed)
            ranks = measured_peaks(typed, folder / str(number))
            shutil.rmtree(folder / str(number) / "run")
            compared = Compared(plans[setting][cell.stage], max(ranks), ranks)
            result["cells"].append(asdict(cell) | asdict(compared) | {"ratio": compared.ratio})
            figures = (f"{each / _MIB:,.0f}" for each in (compared.predicted, compared.measured))
            table.add_row(str(cell), *figures, f"{compared.ratio:.3f}")
            result["farthest"] = max(abs(each["ratio"] - 1) for each in result["cells"])
            print(f"{cell}: {compared.ratio:.3f}", file=sys.stderr)
            write(result, arguments.output)  # an hour on a machine that has other work: what is there is kept
    make_console().print(table)
    print(f"farthest from 1: {result['farthest']:.3f}")
    return result


def planned_peaks(arguments: Sequence[str]) -> dict[int, int]:
    """By stage, what the command says of a run that is described by these arguments; bytes."""
    command = [sys.executable, "-m", "pretrain", "plan", "--json", f"--ranks={NUM_RANKS}", "--device=cpu"]
    planned = run_command([*command, *arguments], timeout=_SECONDS)
    if planned.returncode != 0:
        raise RuntimeError(planned.stderr)
    stages = json.loads(planned.stdout)["memory"]["stages"]
    return {each["stage"]: each["peak_bytes"] for each in stages}


def measured_peaks(arguments: Sequence[str], folder: Path) -> tuple[int, ...]:
    """Of each rank of that run, the most first; bytes."""
    command = [*map(str, launcher_command("torchrun")), f"--output={folder / 'run'}", *arguments]
    _, *others = watch(command).peaks
    ranks = sorted((peak.resident_bytes for peak in others), reverse=True)
    return tuple(ranks[:NUM_RANKS])


def write_model(path: Path, width: int, layers: int) -> Path:
    """A Hugging Face config JSON of a BERT."""
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": width // 64}
    content = {"model_type": "bert", **sizes, "intermediate_size": 4 * width, "max_position_embeddings": 512}
    path.write_text(json.dumps(content))
    return path


def write_store(path: Path, num_documents: int = 1500) -> Path:
    """A token store of random documents of 4 to 20 sentences of 5 to 40 tokens, one in eight held out."""
    special = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)
    layout = StoreLayout(VOCAB_SIZE, special, (0, 1, 2, 3, 4), block_tokens=20_000, shard_tokens=400_000)
    draw = np.random.default_rng(0)
    with StoreWriter(path, layout) as writer:
        (writer.tokenizer_path / "tokenizer.json").write_text("{}")
        for index in range(num_documents):
            lengths = draw.integers(5, 40, draw.integers(4, 20))
            tokens = draw.integers(_FIRST_TEXT_ID, VOCAB_SIZE, lengths.sum())
            document = Documents(
                tokens=tokens.astype(np.uint32),
                sentence_lengths=lengths.astype(np.uint32),
                document_lengths=np.array([len(lengths)], dtype=np.uint32),
                word_starts=np.ones(len(tokens), dtype=np.bool_),
            )
            writer.add("heldout" if index % 8 == 7 else "train", document)
        writer.finish({"options": {}})
    return path


def run_arguments(cell: Cell, store: Path, model: Path, folder: Path) -> list[str]:
    """Of both commands: steps of two micro-batches on each rank; after so many the peak hardly grows."""
    folder.mkdir(parents=True)
    config = {"zero_optimization": {"stage": cell.stage}, "bf16": {"enabled": cell.precision == "bf16"}}
    ds_config = folder / "ds_config.json"
    ds_config.write_text(json.dumps(config))
    return [
        f"--data={store}",
        f"--ds_config={ds_config}",
        f"--backend={cell.backend}",
        f"model.config={model}",
        f"data.seq_len={SEQ_LEN}",
        f"train.steps={NUM_STEPS}",
        "train.micro_batch=8",
        "train.global_batch=32",
        f"train.activation_checkpointing={cell.recomputation}",
        "optimizer.lr=1e-4",
        "eval.rows=16",
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
