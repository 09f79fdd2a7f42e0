"""Training on GPUs, ours beside HF Trainer: `python -m tests.benchmarks.gpu --help`.

In the order of what matters most, and as far as `--minutes` go:

1. the ceilings of the device: the product of large matrices in bf16, and a copy;
2. BERT-large and BERT-base, bf16, rows of 512 and of 128 tokens: real tokens per second, their model FLOPs relative to
   the peak of the maker (MFU) and to the measured product, and the most memory that a rank had allocated; in turns with
   HF Trainer on pieces of documents and on concatenated text, with the same choices: attention dropout,
   `torch.compile`;
3. where a step's time goes (`operators`), and the optimizer's step beside fused AdamW (`optimizer`), by their commands;
4. what recomputation, the micro-batch and our own parts make of it;
5. every engine and stage.

Each run has processes of its own: ours by torchrun, a rank for each GPU; Trainer the same way where there are several
GPUs, else as a plain program. What fails, runs out of memory or hangs is not run and says why. The document is written
after each group. Without a GPU all of it is tried in its quick form on the CPU, into the cache. Nothing is asserted.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from pretrain import comm
from tests.benchmarks.amounts import check_only, positive, whole
from tests.benchmarks.ceilings import copy_bytes, product_flops
from tests.benchmarks.gpu_runs import WORKERS, Cell, Course, launched
from tests.benchmarks.gpu_table import Asked, GpuTable, measured, sentence
from tests.benchmarks.measure import NotRun, Peer, alternate
from tests.benchmarks.report import make_console, provenance, write
from tests.benchmarks.step_clock import Timing
from tests.benchmarks.training_text import open_demo

PLAIN, COMPILED = "model.attention_dropout=0.0", "train.compile=true"
CONCATENATED = "HF Trainer, concatenated"
QUICK_PEERS = ("ours", CONCATENATED)
TRIED = "tried as far as it goes on CPU: no figure here says anything of a GPU"


@dataclass(frozen=True)
class Size:
    """`cells`: the first with every choice; `staged`: with every engine and stage; `brief`: the timing of both and of
    other choices."""

    cells: tuple[Cell, ...]
    staged: tuple[Cell, ...]
    timing: Timing
    brief: Timing
    product_width: int
    copy_bytes: int
    most_seconds: float  # of a run
    asked: Asked


SIZES = {
    False: Size(
        cells=(
            Cell("bert-large", 512, 64),
            Cell("bert-large", 128, 256),
            Cell("bert-base", 512, 128),
            Cell("bert-base", 128, 512),
        ),
        staged=(Cell("bert-large", 512, 64), Cell("bert-base", 128, 512)),
        timing=Timing(5, 8.0, 10),
        brief=Timing(4, 3.0, 5),
        product_width=8192,
        copy_bytes=1 << 32,
        most_seconds=300.0,
        asked=Asked("bert-large, 512", 200_000.0, 254_000.0, 0.40),
    ),
    True: Size(
        cells=(Cell("bert-tiny", 32, 8), Cell("bert-tiny", 48, 8)),
        staged=(Cell("bert-tiny", 32, 8),),
        timing=Timing(1, 0.2, 2),
        brief=Timing(1, 0.2, 2),
        product_width=256,
        copy_bytes=1 << 20,
        most_seconds=180.0,
        asked=Asked("bert-tiny, 32", 200_000.0, 254_000.0, 0.40),
    ),
}


@dataclass(frozen=True)
class Part:
    """A group of peers, or with a `module` another benchmark, by its command and options."""

    name: str
    peers: tuple[Peer, ...] = ()
    module: str = ""
    options: tuple[str, ...] = ()
    most_seconds: float = 300.0  # of that other benchmark


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Runs, prints and writes; the JSON document."""
    arguments = make_parser().parse_args(argv)
    has_gpu, console = torch.cuda.is_available(), make_console()
    if not has_gpu and not arguments.quick:
        console.print(f"no GPU: {TRIED}", highlight=False)
        arguments.quick = arguments.all = True
        arguments.cache = arguments.cache / "tried"
        if arguments.output is not None:
            arguments.output = arguments.cache / arguments.output.name
    size, device = SIZES[arguments.quick], torch.device("cuda" if has_gpu else "cpu")
    store, ranks = open_demo(arguments.cache, arguments.quick), max(1, torch.cuda.device_count())
    ends = time.monotonic() + arguments.minutes * 60  # the store is made once, and may take minutes
    course = Course(store, arguments.cache, size.timing, ranks, device, size.most_seconds, ends)
    parts = parts_of(course, size, arguments.quick)
    check_only(arguments.only, [part.name for part in parts])
    result = provenance("tests.benchmarks.gpu", argv) | {"ranks": ranks, "is_tried_on_cpu": not has_gpu}
    result |= {"device": torch.cuda.get_device_name() if has_gpu else "CPU", "groups": {}}
    result |= {"peak_flops": comm.peak_flops(device), "ceilings": ceilings(device, size)}
    console.print(
        f"{ranks} x {result['device']}: products {result['ceilings']['product_flops'] / 1e12:,.1f} TFLOP/s, "
        f"copies {result['ceilings']['copy_bytes_per_second'] / 1e9:,.1f} GB/s",
        highlight=False,
    )
    table, asked = GpuTable("GPU" if has_gpu else "CPU"), ""
    for part in chosen(parts, arguments):
        if part.module:
            result[part.module] = other(course, part, arguments, console)
        else:
            say = partial(print, file=sys.stderr)
            summaries = alternate(part.peers, arguments.rounds, say)
            result["groups"][part.name] = found = measured(summaries, result)
            table.add(part.name, found)
            if part.name == size.asked.cell:
                asked = sentence(size.asked, found)
        write(result, arguments.output)  # what is measured is kept, whatever becomes of the rest
    table.print(console)
    console.print("; ".join(filter(None, (asked, "" if has_gpu else TRIED))), highlight=False)
    return result


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cache", type=Path, required=True, help="folder for the demo store, which stays")
    parser.add_argument("--quick", action="store_true", help="seconds, on a small model: shows that it runs")
    parser.add_argument("--all", action="store_true", help="with --quick: everything, some minutes")
    parser.add_argument("--only", nargs="*", metavar="TEXT", help="parts with one of these in their name")
    parser.add_argument("--rounds", type=whole, default=1, help="how often each of them trains (default: 1)")
    parser.add_argument("--minutes", type=positive, default=30.0, help="after which no run is begun")
    parser.add_argument(
        "--output", type=Path, help="file for the JSON document; those of others go beside it"
    )
    return parser


def ceilings(device: torch.device, size: Size) -> dict[str, float]:
    """Of one GPU; what it takes is given back to the runs."""
    found = {
        "product_flops": product_flops(device, torch.bfloat16, size.product_width),
        "copy_bytes_per_second": copy_bytes(device, size.copy_bytes),
    }
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return found


def chosen(parts: Sequence[Part], arguments: argparse.Namespace) -> Iterator[Part]:
    """What was asked for; of the quick form only what stands for the rest."""
    for part in parts:
        if arguments.only and not any(each in part.name for each in arguments.only):
            continue
        if arguments.quick and not arguments.all:
            peers = tuple(peer for peer in part.peers if peer.name in QUICK_PEERS)
            if part is not parts[0]:
                continue
            part = replace(part, peers=peers)
        # What ratios are of is the last of ours.
        names = [peer.name for peer in part.peers if peer.name.startswith("ours")]
        yield replace(
            part, peers=tuple(replace(peer, is_ours=peer.name in names[-1:]) for peer in part.peers)
        )


def parts_of(course: Course, size: Size, quick: bool) -> list[Part]:
    """In the order of what matters most."""
    first, second, *others = size.cells
    form = ("--quick", "--all") if quick else ()
    brief = replace(course, timing=size.brief)
    return [
        Part(str(first), peers_of(course, first, is_whole=True)),
        # Four processes, two of which compile.
        Part("operators", (), "operators", ("--cache", str(course.cache), *form), most_seconds=900.0),
        Part(str(second), peers_of(course, second, is_whole=False)),
        *(Part(str(cell), peers_of(course, cell, is_whole=False)) for cell in others),
        Part("optimizer", module="optimizer", options=("--device", course.device.type, *form[:1])),
        Part(f"{first}, choices", choices_of(brief, first)),
        *(Part(f"{cell}, engines", engines_of(brief, cell)) for cell in size.staged),
    ]


def peers_of(course: Course, cell: Cell, is_whole: bool) -> tuple[Peer, ...]:
    """Ours and Trainer with the same choices; unless `is_whole` the best of them."""
    ours, theirs = partial(course.ours, cell), partial(course.theirs, cell)
    rich: dict[str, Any] = {"attention_dropout": False, "workers": WORKERS, "tuned": True}
    plain, compiled = "no attention dropout", "no attention dropout, compiled"
    best = (
        Peer(f"ours, {compiled}", ours(PLAIN, COMPILED)),
        Peer(f"{CONCATENATED}, {compiled}", theirs("concatenated", compile=True, **rich)),
        Peer(f"HF Trainer, pieces, {compiled}", theirs("pieces", compile=True, **rich)),
    )
    if not is_whole:
        return best
    return (
        Peer("ours", ours()),
        Peer(f"ours, {plain}", ours(PLAIN)),
        *best,
        Peer(CONCATENATED, theirs("concatenated")),
        Peer(f"{CONCATENATED}, {plain}", theirs("concatenated", **rich)),
    )


def choices_of(course: Course, cell: Cell) -> tuple[Peer, ...]:
    """Ours with one thing otherwise."""
    double, half = (replace(cell, rows=rows) for rows in (cell.rows * 2, cell.rows // 2))
    return (
        Peer("ours", course.ours(cell, PLAIN)),
        Peer("twice the micro-batch, compiled", course.ours(double, PLAIN, COMPILED)),
        Peer("recomputed in every layer", course.ours(cell, PLAIN, "train.activation_checkpointing=full")),
        Peer(
            "recomputed in every second layer", course.ours(cell, PLAIN, "train.activation_checkpointing=2")
        ),
        Peer("half the micro-batch", course.ours(half, PLAIN)),
        Peer("without masked-only head", course.ours(cell, PLAIN, without="masked-only head")),
        Peer("without packing", course.ours(cell, PLAIN, "data.packing=false")),
    )


def engines_of(course: Course, cell: Cell) -> tuple[Peer, ...]:
    """Both engines with every stage."""
    return tuple(
        Peer(f"ours, {engine} {stage}", course.ours(cell, PLAIN, backend=engine, stage=stage))
        for engine in ("deepspeed", "fsdp")
        for stage in (0, 1, 2, 3)
    )


def other(course: Course, part: Part, arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """The document of another benchmark, as far as it came, and why it came no farther."""
    folder = arguments.cache if arguments.output is None else arguments.output.parent
    output = folder / f"gpu_{part.module}.json"
    output.unlink(missing_ok=True)
    command = [sys.executable, "-m", f"tests.benchmarks.{part.module}", *part.options]
    found: dict[str, Any] = {}
    try:
        printed = launched([*command, "--output", str(output)], course.seconds(part.most_seconds), folder)
    except NotRun as error:
        printed = f"{part.name}: not run, or not to its end: {error}"
        found["not_run"] = str(error)
    console.print(printed, highlight=False, markup=False)
    return found | (json.loads(output.read_text()) if output.exists() else {})


if __name__ == "__main__":
    main(sys.argv[1:])
