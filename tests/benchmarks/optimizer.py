"""The optimizer step against torch's fused AdamW: `python -m tests.benchmarks.optimizer --help`.

All peers step the same float32 weights by the same gradients, in turns, in one process, each with moments of its own.
Ours is everything between the gradients and the new weights: global norm, clipping, moments, trust ratios, update. It
steps a shard for each parameter, as FSDP and stage 0 have them, and one flat shard of all, as ZeRO 1 and 2. Fused AdamW
takes no norm and does not clip, so it stands there with `clip_grad_norm_` too. Ratios are of medians, and of each
peer's lowest time: a machine that has other work makes all of it wait, but not in every round. The bytes that a step
must move are set against what a copy moves, each by its best.

On the CPU then the share of LAMB's step in a whole training step: forward and backward of full rows of random tokens,
one sample a row, and the step after them. On a GPU (`--device cuda`) steps are timed by events on the device, and LAMB
stands there by torch's operations too, which are what a GPU without Triton takes. Nothing is asserted.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForPreTraining

from pretrain import sharding
from pretrain.kernels.kind import kernel_kind
from pretrain.model import ModelOptions, build_model
from pretrain.model.presets import preset_config
from pretrain.optim import AdamWOptions, LambOptions, ShardedOptimizer, moments, passes
from pretrain.plan.optimizer_step import optimizer_bytes
from pretrain.sharding import ParameterInfo, Shard, ShardLayout, Slice
from tests.benchmarks.amounts import whole
from tests.benchmarks.ceilings import copy_bytes
from tests.benchmarks.measure import Peer, Summary, Trial, alternate
from tests.benchmarks.report import make_console, provenance, write

VOCAB_SIZE = 30528
SEQ_LEN = 128
SPECIAL_IDS = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
# So small that hundreds of steps leave the weights what they are.
LR, WEIGHT_DECAY, MAX_GRAD_NORM = 1e-7, 0.01, 1.0
FUSED = "torch AdamW, fused"
LAMB = "LAMB"
# Of fused AdamW's time: floor, aim.
_BUSY_CYCLES = 40_000_000  # of a GPU's clock: some 20 ms
TIMES_ASKED = {"cpu": (3.0, 1.7), "cuda": (1.6, 1.45)}
# Read and written for each float32 weight, at least; torch's takes no norm.
BYTES_PER_WEIGHT = {
    "LAMB": optimizer_bytes(LambOptions()),
    "AdamW": optimizer_bytes(AdamWOptions()),
    "torch": 28,
}
SHARE_ASKED = 0.05


@dataclass(frozen=True)
class Size:
    """Which models are stepped and how often, what is copied, and the model, rows and micro-batch of the share."""

    presets: dict[str, tuple[str, ...]]  # by kind of device
    rounds: int
    copied_bytes: int
    trained: str
    rows: int
    micro_batch: int
    training_steps: int


SIZES = {
    False: Size(
        {"cpu": ("bert-mini", "bert-base"), "cuda": ("bert-base", "bert-large")},
        15,
        1 << 30,
        "bert-mini",
        256,
        64,
        3,
    ),
    True: Size({"cpu": ("bert-tiny",), "cuda": ("bert-tiny",)}, 3, 1 << 24, "bert-tiny", 8, 4, 1),
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

    device = torch.device(arguments.device)
    result = provenance("tests.benchmarks.optimizer", argv) | {"threads": torch.get_num_threads()}
    on = f"the CPU, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        on = torch.cuda.get_device_name(device)
    ceiling = copy_bytes(device, size.copied_bytes)
    result |= {"device": on, "kernels": kernel_kind(device, torch.float32), "copy_bytes_per_second": ceiling}
    result["models"] = {}
    title = f"One optimizer step on {on}; a copy moves {ceiling / 1e9:,.0f} GB/s"
    table = Table(title=title, title_justify="left")
    for heading in ("", "ms", "lowest-highest", "times fused", "of the lowest", "of a copy", "floor", "aim"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for preset in size.presets[device.type]:
        say(f"{preset} ...")
        shapes = shapes_of(preset)
        summaries = alternate(make_peers(shapes, device), arguments.rounds or size.rounds, say)
        result["models"][preset] = add_rows(table, preset, shapes, summaries, ceiling, device)
        write(result, arguments.output)
    shown = make_console()
    shown.print(table)
    if device.type != "cpu":
        return result
    share = step_share(size, say)
    result["share"] = share
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
    parser.add_argument("--rounds", type=whole, help="how often each peer steps")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="where (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, help="file for the JSON document")
    return parser


def shapes_of(preset: str) -> list[tuple[int, ...]]:
    """Of all parameters with both heads, in order."""
    with torch.device("meta"):
        model = AutoModelForPreTraining.from_config(preset_config(preset, VOCAB_SIZE))
    return [tuple(parameter.shape) for parameter in model.parameters()]


def make_peers(shapes: list[tuple[int, ...]], device: torch.device) -> list[Peer]:
    """Optimizers over the same memory, warmed up; before every trial the gradients are written anew."""
    infos = tuple(ParameterInfo(str(number), shape) for number, shape in enumerate(shapes))
    total = sum(info.numel for info in infos)
    weights, drawn = (torch.randn(total, device=device) * scale for scale in (0.02, 1e-3))
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
    if device.type == "cuda":
        steps[f"{LAMB}, by single operations"] = by_operations(stepping(LambOptions(), whole))

    def timed(step: Callable[[], object]) -> Callable[[int], Trial]:
        def run(number: int) -> Trial:
            gradients.copy_(drawn)
            if device.type == "cuda":
                return Trial(total, seconds_on_gpu(step))
            began, cpu_began = time.perf_counter(), time.process_time()
            step()
            return Trial(total, time.perf_counter() - began, time.process_time() - cpu_began)

        run(0)  # What is compiled or allocated at first use is not counted.
        return run

    return [Peer(name, timed(step), is_ours="torch" not in name) for name, step in steps.items()]


def seconds_on_gpu(step: Callable[[], object]) -> float:
    """From when the device begins with a step to when it is done, its waits for the host included.

    It is busy at first, as a backward pass keeps it: what the host can prepare meanwhile is not in the time."""
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda._sleep(_BUSY_CYCLES)
    began.record()
    step()
    ended.record()
    ended.synchronize()
    return began.elapsed_time(ended) / 1e3


def by_operations(step: Callable[[], object]) -> Callable[[], object]:
    """The same by torch's own operations, whatever kernels there are."""

    def run() -> None:
        with ExitStack() as stack:
            for module in (sharding, moments, passes):
                stack.enter_context(patch.object(module, "kernel_kind", lambda device, dtype: "torch"))
            step()

    return run


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
    table: Table,
    preset: str,
    shapes: list[tuple[int, ...]],
    summaries: Sequence[Summary],
    ceiling: float,
    device: torch.device,
) -> dict[str, Any]:
    """A row a peer; for the JSON document the same and every trial. `ceiling`: bytes that a copy moves in a second."""
    total = sum(torch.Size(shape).numel() for shape in shapes)
    fused = next(each for each in summaries if each.peer.name == FUSED)
    table.add_section()
    table.add_row(f"[bold]{preset}, {total / 1e6:.1f} M parameters[/bold]")
    peers = {}
    for each in summaries:
        low, high = each.spread
        times, lowest = fused.rate / each.rate, fused.spread[1] / high
        asked = [f"{number:g}x" for number in TIMES_ASKED[device.type]]
        moved = next(
            (n * high for name, n in BYTES_PER_WEIGHT.items() if each.peer.name.startswith(name)), None
        )
        table.add_row(
            f"  {each.peer.name}",
            f"{total / each.rate * 1e3:.1f}",
            f"{total / high * 1e3:.1f}-{total / low * 1e3:.1f}",
            f"{times:.2f}x",
            f"{lowest:.2f}x",
            "" if moved is None else f"{moved / ceiling:.0%}",
            *(asked if each.peer.name.startswith(LAMB) else []),
        )
        peers[each.peer.name] = {
            "seconds": total / each.rate,
            "times_fused": times,
            "times_fused_lowest": lowest,
            "bytes_per_second": moved,
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
