"""The optimizer step against torch's fused AdamW: `python -m tests.benchmarks.optimizer --help`.

All peers step the same float32 weights by the same gradients, in turns, in one process, each with moments of its own.
Ours is everything between the gradients and the new weights: global norm, clipping, moments, trust ratios, update. It
steps a shard for each parameter, as FSDP and stage 0 have them, and one flat shard of all, as ZeRO 1 and 2. Fused AdamW
takes no norm and does not clip, so it stands there with `clip_grad_norm_` too. Ratios are of medians, and of each
peer's lowest time: a machine that has other work makes all of it wait, but not in every round.

Then the share of LAMB's step in a whole training step: forward and backward of full rows of random tokens, one sample
a row, and the step after them. Nothing is asserted.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForPreTraining

from pretrain.model import ModelOptions, build_model
from pretrain.model.presets import preset_config
from pretrain.optim import AdamWOptions, LambOptions, ShardedOptimizer
from pretrain.sharding import ParameterInfo, Shard, ShardLayout, Slice
from tests.benchmarks.measure import Peer, Summary, Trial, alternate
from tests.benchmarks.report import make_console, provenance, write

VOCAB_SIZE = 30528
SEQ_LEN = 128
SPECIAL_IDS = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
# So small that hundreds of steps leave the weights what they are.
LR, WEIGHT_DECAY, MAX_GRAD_NORM = 1e-7, 0.01, 1.0
FUSED = "torch AdamW, fused"
LAMB = "LAMB"
TIMES_ASKED = (3.0, 1.7)  # of fused AdamW's time: floor, aim
SHARE_ASKED = 0.05


@dataclass(frozen=True)
class Size:
    """Which models are stepped and how often, and the model, rows and micro-batch of the share."""

    presets: tuple[str, ...]
    rounds: int
    trained: str
    rows: int
    micro_batch: int
    training_steps: int


SIZES = {
    False: Size(("bert-mini", "bert-base"), 15, "bert-mini", 256, 64, 3),
    True: Size(("bert-tiny",), 3, "bert-tiny", 8, 4, 1),
}


@dataclass(frozen=True)
class Rows:
    """A micro-batch of full rows, each one sample, 15% of it masked."""

    input_ids: torch.Tensor
    token_type_ids: torch.Tensor
    position_ids: torch.Tensor
    sample_ids: torch.Tensor
    cu_seqlens: torch.Tensor
    max_seqlen: int
    masked_positions: torch.Tensor
    masked_labels: torch.Tensor
    cls_positions: torch.Tensor
    nsp_labels: torch.Tensor

    @classmethod
    def draw(cls, rows: int) -> "Rows":
        shape, numel = (rows, SEQ_LEN), rows * SEQ_LEN
        masked = torch.randperm(numel)[: numel * 15 // 100]
        return cls(
            input_ids=torch.randint(len(SPECIAL_IDS), VOCAB_SIZE, shape),
            token_type_ids=torch.zeros(shape, dtype=torch.int64),
            position_ids=torch.arange(SEQ_LEN).expand(shape),
            sample_ids=torch.ones(shape, dtype=torch.int32),
            cu_seqlens=torch.arange(0, numel + 1, SEQ_LEN, dtype=torch.int32),
            max_seqlen=SEQ_LEN,
            masked_positions=masked,
            masked_labels=torch.randint(len(SPECIAL_IDS), VOCAB_SIZE, masked.shape),
            cls_positions=torch.arange(0, numel, SEQ_LEN),
            nsp_labels=torch.randint(0, 2, (rows,)),
        )


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Runs, prints and writes; the JSON document."""
    arguments = make_parser().parse_args(argv)
    size = SIZES[arguments.quick]
    console = Console(stderr=True)

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False)

    result = provenance("tests.benchmarks.optimizer", argv) | {"threads": torch.get_num_threads()}
    result["models"] = {}
    table = Table(
        title=f"One optimizer step on the CPU, {torch.get_num_threads()} threads", title_justify="left"
    )
    for heading in ("", "ms", "lowest-highest", "times fused", "of the lowest", "floor", "aim"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for preset in size.presets:
        say(f"{preset} ...")
        shapes = shapes_of(preset)
        summaries = alternate(make_peers(shapes), arguments.rounds or size.rounds, say)
        result["models"][preset] = add_rows(table, preset, shapes, summaries)
    share = step_share(size, say)
    result["share"] = share
    shown = make_console()
    shown.print(table)
    shown.print(
        f"{LAMB}'s step is {share['share']:.2%} of a training step of {size.trained} with {size.rows} rows of "
        f"{SEQ_LEN} (asked: below {SHARE_ASKED:.0%} at 256 rows).",
        highlight=False,
    )
    write(result, arguments.output)
    return result


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.optimizer", description=__doc__)
    parser.add_argument("--cache", type=Path, help="not needed: nothing is kept")
    parser.add_argument("--quick", action="store_true", help="seconds, on a small model: shows that it runs")
    parser.add_argument("--rounds", type=int, help="how often each peer steps")
    parser.add_argument("--output", type=Path, help="file for the JSON document")
    return parser


def shapes_of(preset: str) -> list[tuple[int, ...]]:
    """Of all parameters with both heads, in order."""
    with torch.device("meta"):
        model = AutoModelForPreTraining.from_config(preset_config(preset, VOCAB_SIZE))
    return [tuple(parameter.shape) for parameter in model.parameters()]


def make_peers(shapes: list[tuple[int, ...]]) -> list[Peer]:
    """Optimizers over the same memory, warmed up; before every trial the gradients are written anew."""
    infos = tuple(ParameterInfo(str(number), shape) for number, shape in enumerate(shapes))
    total = sum(info.numel for info in infos)
    weights, drawn = torch.randn(total) * 0.02, torch.randn(total) * 1e-3
    gradients = drawn.clone()
    parameters, slices, first = [], [], 0
    for number, info in enumerate(infos):
        parameter = torch.nn.Parameter(weights[first : first + info.numel].view(info.shape))
        parameter.grad = gradients[first : first + info.numel].view(info.shape)
        parameters.append(parameter)
        slices.append(Slice(number, 0, first, info.numel))
        first += info.numel
    flat = torch.nn.Parameter(weights)
    flat.grad = gradients
    whole = ShardLayout(
        infos,
        tuple(
            Shard(parameter, (Slice(number, 0, 0, parameter.numel()),))
            for number, parameter in enumerate(parameters)
        ),
    )
    in_one = ShardLayout(infos, (Shard(flat, tuple(slices)),))
    fused = torch.optim.AdamW(parameters, lr=LR, weight_decay=WEIGHT_DECAY, fused=True)

    def clipped() -> None:
        torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
        fused.step()

    steps: dict[str, Callable[[], object]] = {
        LAMB: stepping(LambOptions(), whole),
        f"{LAMB}, one flat shard": stepping(LambOptions(), in_one),
        "AdamW": stepping(AdamWOptions(), whole),
        FUSED: fused.step,
        f"clip_grad_norm_, {FUSED}": clipped,
    }

    def timed(step: Callable[[], object]) -> Callable[[int], Trial]:
        def run(number: int) -> Trial:
            gradients.copy_(drawn)
            began, cpu_began = time.perf_counter(), time.process_time()
            step()
            return Trial(total, time.perf_counter() - began, time.process_time() - cpu_began)

        run(0)  # What is compiled or allocated at first use is not counted.
        return run

    return [Peer(name, timed(step), is_ours="torch" not in name) for name, step in steps.items()]


def stepping(rule: LambOptions | AdamWOptions, layout: ShardLayout) -> Callable[[], object]:
    """One whole step of our optimizer on the gradients that lie there."""
    optimizer = ShardedOptimizer(
        [torch.nn.Parameter(torch.zeros(1))], rule, weight_decay=WEIGHT_DECAY, max_grad_norm=MAX_GRAD_NORM
    )
    optimizer.bind(layout)

    def step() -> None:
        optimizer.begin(LR)
        optimizer.step()
        optimizer.finish()

    return step


def add_rows(
    table: Table, preset: str, shapes: list[tuple[int, ...]], summaries: Sequence[Summary]
) -> dict[str, Any]:
    """A row a peer; for the JSON document the same and every trial."""
    total = sum(torch.Size(shape).numel() for shape in shapes)
    fused = next(each for each in summaries if each.peer.name == FUSED)
    table.add_section()
    table.add_row(f"[bold]{preset}, {total / 1e6:.1f} M parameters[/bold]")
    peers = {}
    for each in summaries:
        low, high = each.spread
        times, lowest = fused.rate / each.rate, fused.spread[1] / high
        asked = [f"{number:g}x" for number in TIMES_ASKED] if each.peer.name.startswith(LAMB) else []
        table.add_row(
            f"  {each.peer.name}",
            f"{total / each.rate * 1e3:.1f}",
            f"{total / high * 1e3:.1f}-{total / low * 1e3:.1f}",
            f"{times:.2f}x",
            f"{lowest:.2f}x",
            *asked,
        )
        peers[each.peer.name] = {
            "seconds": total / each.rate,
            "times_fused": times,
            "times_fused_lowest": lowest,
            "trials": [trial.seconds for trial in each.trials],
            "cpu_seconds": [trial.cpu_seconds for trial in each.trials],
        }
    return {"parameters": total, "tensors": len(shapes), "peers": peers}


def step_share(size: Size, say: Callable[[str], None]) -> dict[str, Any]:
    """Medians of the seconds of forward and backward over all rows, and of LAMB's step after them."""
    model = build_model(
        ModelOptions(preset=size.trained),
        vocab_size=VOCAB_SIZE,
        special_ids=SPECIAL_IDS,
        seq_len=SEQ_LEN,
        objective="nsp",
        tokenizer_path=Path("none"),
        seed=0,
    )
    named = list(model.encoder.named_parameters())
    layout = ShardLayout(
        tuple(ParameterInfo(name, tuple(parameter.shape)) for name, parameter in named),
        tuple(
            Shard(parameter, (Slice(number, 0, 0, parameter.numel()),))
            for number, (_, parameter) in enumerate(named)
        ),
    )
    step = stepping(LambOptions(), layout)
    passes, steps = [], []
    for number in range(1 + size.training_steps):  # the first allocates
        began = time.perf_counter()
        for _ in range(size.rows // size.micro_batch):
            mlm, nsp = model(Rows.draw(size.micro_batch))
            (mlm + nsp).backward()
        passed = time.perf_counter()
        step()
        ended = time.perf_counter()
        model.zero_grad()
        if number:
            passes.append(passed - began)
            steps.append(ended - passed)
            say(f"training step {number}: {passes[-1]:.2f} s and {steps[-1] * 1e3:.1f} ms")
    before, own = statistics.median(passes), statistics.median(steps)
    figures = {"model": size.trained, "rows": size.rows, "passes_seconds": before, "step_seconds": own}
    return figures | {"share": own / (before + own)}


if __name__ == "__main__":
    main(sys.argv[1:])
