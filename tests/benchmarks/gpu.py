"""Training on GPUs, ours beside HF Trainer: `python -m tests.benchmarks.gpu --help`.

1. the ceilings of the device: the product of large matrices in bf16, and a copy;
2. BERT-base and BERT-large, bf16, rows of 128 and of 512 tokens: real tokens per second and their share of the peak
   (MFU), in turns with HF Trainer on pieces of documents and on concatenated text;
3. what `torch.compile`, recomputation and the micro-batch make of it;
4. every engine and stage: tokens per second and the most memory that a rank had allocated.

Each run is started by torchrun with a rank for each GPU, as a user would. Without a GPU everything runs on one rank on
the CPU, which with `--quick` shows that it does. Nothing is asserted.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pretrain import comm
from pretrain.data.store import TokenStore
from tests.benchmarks.ceilings import copy_bytes, product_flops
from tests.benchmarks.measure import NotRun, Peer, Summary, Trial, alternate
from tests.benchmarks.report import RateTable, as_json, make_console, provenance, write
from tests.benchmarks.step_clock import Steps, Timing, trial_of
from tests.benchmarks.text_peers import last_words
from tests.benchmarks.training_ours import OurRun
from tests.benchmarks.training_peers import PeerRun
from tests.benchmarks.training_text import open_demo, open_samples
from tests.worlds import run_command

QUICK_PEERS = ("ours", "HF Trainer, concatenated")
_SECONDS = 3600.0


@dataclass(frozen=True)
class Cell:
    """A model and a row length: rows of a rank's forward pass, for ours and for the peer, and passes a step."""

    preset: str
    seq_len: int
    rows: int
    accumulation: int = 2

    def __str__(self) -> str:
        return f"{self.preset}, {self.seq_len}"


@dataclass(frozen=True)
class Size:
    cells: tuple[Cell, ...]
    variants: tuple[Cell, ...]  # of which what else can be chosen is tried
    stages: tuple[int, ...]
    rounds: int
    timing: Timing
    product_width: int
    copy_bytes: int


SIZES = {
    False: Size(
        cells=(
            Cell("bert-base", 128, 512),
            Cell("bert-base", 512, 128),
            Cell("bert-large", 128, 256),
            Cell("bert-large", 512, 64),
        ),
        variants=(Cell("bert-large", 512, 64),),
        stages=(0, 1, 2, 3),
        rounds=3,
        timing=Timing(5, 15.0, 10),
        product_width=8192,
        copy_bytes=1 << 32,
    ),
    True: Size(
        cells=(Cell("bert-tiny", 32, 8),),
        variants=(),
        stages=(2,),
        rounds=1,
        timing=Timing(1, 0.2, 2),
        product_width=256,
        copy_bytes=1 << 20,
    ),
}


@dataclass(frozen=True)
class Course:
    """What all runs share."""

    store: Path
    cache: Path
    timing: Timing
    ranks: int
    device: torch.device

    def ours(self, cell: Cell, *settings: str, **choices: Any) -> Callable[[int], Trial]:
        """Ours, with attention dropout as everybody has it unless a setting says otherwise."""
        common = (
            f"model.preset={cell.preset}",
            f"data.seq_len={cell.seq_len}",
            "data.objective=mlm",
            f"train.micro_batch={cell.rows}",
            f"train.global_batch={cell.rows * cell.accumulation * self.ranks}",
        )
        run = OurRun((*common, *settings), precision="bf16", **choices)
        return partial(self._measured, "ours", run)

    def theirs(self, cell: Cell, form: str) -> Callable[[int], Trial]:
        open_samples(self.cache / "samples", TokenStore.open(self.store), form, cell.seq_len)  # once, by one
        run = PeerRun("trainer", form, cell.preset, cell.seq_len, cell.rows, cell.accumulation)
        return partial(self._measured, "trainer", replace(run, precision="bf16"))

    def _measured(self, kind: str, run: OurRun | PeerRun, number: int) -> Trial:
        """By torchrun; raises NotRun with its last words where it fails, as where memory does not suffice."""
        with tempfile.TemporaryDirectory(dir=self.cache, prefix="gpu-") as folder:
            task = {"kind": kind, "run": asdict(run), "timing": asdict(self.timing), "store": str(self.store)}
            task |= {"samples": str(self.cache / "samples"), "output": folder}
            (Path(folder) / "task.json").write_text(json.dumps(task))
            launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            launcher += [f"--nproc-per-node={self.ranks}", "-m", "tests.benchmarks.gpu_rank"]
            done = run_command([*launcher, f"{folder}/task.json"], timeout=_SECONDS)
            if done.returncode != 0:
                raise NotRun(last_words(done.stderr))
            files = sorted(Path(folder).glob("rank-*.json"))
            return trial_of([Steps(**json.loads(file.read_text())) for file in files])


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Runs, prints and writes; the JSON document."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu", description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder for the demo store, which stays")
    parser.add_argument("--quick", action="store_true", help="seconds, on a small model: shows that it runs")
    parser.add_argument("--rounds", type=int, help="how often each of them trains")
    parser.add_argument("--output", type=Path, help="file for the JSON document")
    arguments = parser.parse_args(argv)
    size, has_gpu = SIZES[arguments.quick], torch.cuda.is_available()
    device = torch.device("cuda" if has_gpu else "cpu")
    course = Course(
        open_demo(arguments.cache, arguments.quick),
        arguments.cache,
        size.timing,
        max(1, torch.cuda.device_count()),
        device,
    )
    result = provenance("tests.benchmarks.gpu", argv) | {"ranks": course.ranks, "groups": {}}
    result["device"] = torch.cuda.get_device_name() if has_gpu else "CPU"
    result["peak_flops"] = comm.peak_flops(device)
    result["ceilings"] = {
        "product_flops": product_flops(device, torch.bfloat16, size.product_width),
        "copy_bytes_per_second": copy_bytes(device, size.copy_bytes),
    }
    console = make_console()
    console.print(
        f"{course.ranks} x {result['device']}: products {result['ceilings']['product_flops'] / 1e12:,.1f} TFLOP/s, "
        f"copies {result['ceilings']['copy_bytes_per_second'] / 1e9:,.1f} GB/s",
        highlight=False,
    )
    table = RateTable("training on GPUs, bf16, real tokens", "k tokens", 1e3)
    for name, peers in groups_of(course, size):
        if arguments.quick:
            peers = [peer for peer in peers if peer.name in QUICK_PEERS]
        if not peers:
            continue
        summaries = alternate(peers, arguments.rounds or size.rounds, partial(print, file=sys.stderr))
        result["groups"][name] = as_json(summaries)
        table.add(name, summaries)
        write(result, arguments.output)  # what is measured is kept, whatever becomes of the rest
        for summary in summaries:
            if (line := more_of(summary, course)) is not None:
                console.print(f"{name}, {line}", highlight=False)
    table.print(console)
    return result


def groups_of(course: Course, size: Size) -> list[tuple[str, list[Peer]]]:
    """Ours beside Trainer, then what can be chosen, then engines and stages."""
    groups = []
    for cell in size.cells:
        peers = [
            Peer("ours", course.ours(cell), is_ours=True),
            Peer("ours, no attention dropout", course.ours(cell, "model.attention_dropout=0.0")),
            Peer("HF Trainer, pieces, padded", course.theirs(cell, "pieces")),
            Peer("HF Trainer, concatenated", course.theirs(cell, "concatenated")),
        ]
        groups.append((str(cell), peers))
    for cell in size.variants:
        double, half = (replace(cell, rows=rows) for rows in (cell.rows * 2, cell.rows // 2))
        plain = "model.attention_dropout=0.0"
        peers = [
            Peer("ours", course.ours(cell, plain), is_ours=True),
            Peer("compiled", course.ours(cell, plain, "train.compile=true")),
            Peer(
                "recomputed in every layer", course.ours(cell, plain, "train.activation_checkpointing=full")
            ),
            Peer(
                "recomputed in every second layer",
                course.ours(cell, plain, "train.activation_checkpointing=2"),
            ),
            Peer("twice the micro-batch, compiled", course.ours(double, plain, "train.compile=true")),
            Peer("half the micro-batch, compiled", course.ours(half, plain, "train.compile=true")),
            Peer("without masked-only head", course.ours(cell, plain, without="masked-only head")),
            Peer("without packing", course.ours(cell, plain, "data.packing=false")),
        ]
        groups.append((f"{cell}, choices", peers))
    cell = size.cells[-1]
    stages = [
        Peer(
            f"{engine} {stage}", course.ours(cell, "model.attention_dropout=0.0", backend=engine, stage=stage)
        )
        for engine in ("fsdp", "deepspeed")
        for stage in size.stages
    ]
    groups.append((f"{cell}, engines", [replace(stages[0], is_ours=True), *stages[1:]]))
    return groups


def more_of(summary: Summary, course: Course) -> str | None:
    """MFU and memory, where they are known."""
    flops = summary.median(lambda trial: trial.details.get("flops_per_second"))
    peak_bytes = summary.median(lambda trial: trial.details.get("peak_bytes"))
    peak = comm.peak_flops(course.device)
    parts = [f"MFU {flops / peak / course.ranks:.1%}"] if flops and peak else []
    parts += [f"{peak_bytes / 1e9:.1f} GB allocated at most"] if peak_bytes else []
    return f"{summary.peer.name}: {', '.join(parts)}" if parts else None


if __name__ == "__main__":
    main(sys.argv[1:])
