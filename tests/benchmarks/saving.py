"""A checkpoint beside a plain `torch.save`: `python -m tests.benchmarks.saving --help`.

Two gloo ranks, each with half of a model's float32 master weights and of both moments in one flat shard, as ZeRO-2 cuts
them. All peers save that same state, in turns, each round in the other order:

- ours: what the loop does. Training waits for the copy to host memory and goes on, by steps of matrix products and one
  exchange each, until all ranks have heard that the checkpoint is committed;
- torch.save: rank 0 gathers whole tensors and writes one file by `torch.save`, training waits until it has returned;
- the same, and forced to disk, as ours is.

What is measured, by the slowest rank: how long training waits; how much longer than usual the steps after it take
altogether while files are written (on two cores, writers and training take turns); when the checkpoint lies whole under
its name; bytes written by each rank. Nothing is asserted.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.table import Table

from pretrain import comm
from pretrain.checkpoint import Retention, RunState, Saver
from pretrain.optim import LambOptions, ShardedOptimizer
from pretrain.sharding import ParameterInfo, Shard, ShardLayout, Slice
from tests.benchmarks.amounts import whole
from tests.benchmarks.measure import Peer, Trial, alternate
from tests.benchmarks.optimizer import shapes_of
from tests.benchmarks.report import make_console, provenance, write
from tests.worlds import run_ranks

RANKS = 2
KINDS = ("master", "exp_avg", "exp_avg_sq")
OURS, PLAIN, FORCED = "ours", "torch.save on rank 0", "torch.save on rank 0, forced to disk"
USUAL_STEPS = 10  # without a save, to know how long one takes
PRODUCTS = 4  # of square matrices in a step ...
WIDTH = 512  # ... of so many rows
TIMEOUT_SECONDS = 3600.0


@dataclass(frozen=True)
class Size:
    """Whose state is saved, and how often by each peer."""

    preset: str
    rounds: int


SIZES = {False: Size("bert-base", 5), True: Size("bert-tiny", 2)}


@dataclass(frozen=True)
class Save:
    """One save, in seconds of the slowest rank: training waited; later steps took longer, together; until it was
    whole on disk, or for `PLAIN` in the file system's memory."""

    waited: float
    slowed: float
    whole: float
    bytes_by_rank: tuple[int, ...]


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Runs, prints and writes; the JSON document."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.saving", description=__doc__)
    parser.add_argument(
        "--cache", type=Path, help="folder on the disk to write to (default: the temporary one)"
    )
    parser.add_argument("--quick", action="store_true", help="seconds, on a small model: shows that it runs")
    parser.add_argument("--rounds", type=whole, help="how often each peer saves")
    parser.add_argument("--output", type=Path, help="file for the JSON document")
    arguments = parser.parse_args(argv)
    size = SIZES[arguments.quick]
    result = provenance("tests.benchmarks.saving", argv)
    with tempfile.TemporaryDirectory(dir=arguments.cache, prefix="saving-") as scratch:
        saves, *_ = run_ranks(
            measured,
            RANKS,
            Path(scratch),
            size.preset,
            arguments.rounds or size.rounds,
            timeout=TIMEOUT_SECONDS,
        )
    parameters = sum(torch.Size(shape).numel() for shape in shapes_of(size.preset))
    result |= {"preset": size.preset, "parameters": parameters, "ranks": RANKS}
    result["peers"] = {name: [asdict(each) for each in trials] for name, trials in saves.items()}
    make_console().print(as_table(f"{size.preset}, {parameters / 1e6:.1f} M parameters, two ranks", saves))
    write(result, arguments.output)
    return result


def as_table(title: str, saves: dict[str, list[Save]]) -> Table:
    """A row a peer: medians over the rounds."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for heading in (
        "training waits s",
        "lowest-highest",
        "times ours",
        "steps slowed s",
        "whole after s",
        "MB by rank",
    ):
        table.add_column(heading, justify="right")
    ours = statistics.median(each.waited for each in saves[OURS])
    for name, trials in saves.items():
        waited = [each.waited for each in trials]
        table.add_row(
            name,
            f"{statistics.median(waited):.2f}",
            f"{min(waited):.2f}-{max(waited):.2f}",
            f"{statistics.median(waited) / ours:.1f}x",
            f"{statistics.median(each.slowed for each in trials):.2f}",
            f"{statistics.median(each.whole for each in trials):.2f}",
            ", ".join(f"{count / 1e6:,.0f}" for count in trials[0].bytes_by_rank),
        )
    return table


def measured(scratch: Path, preset: str, rounds: int) -> dict[str, list[Save]]:
    """On a rank: every peer's saves; one of each first, which fills buffers and is not counted."""
    rank = dist.get_rank()
    optimizer = half_of(shapes_of(preset), rank)
    saver = Saver(scratch / "ours", optimizer, Retention(1), rank)

    def ours(number: int) -> Save:
        return saved_by_us(saver, number, scratch / "ours", rank)

    def plain(number: int) -> Save:
        return saved_by_torch(optimizer, scratch / "plain.pt", rank, forced=False)

    def forced(number: int) -> Save:
        return saved_by_torch(optimizer, scratch / "forced.pt", rank, forced=True)

    found: dict[str, list[Save]] = {OURS: [], PLAIN: [], FORCED: []}

    def peer(name: str, save: Any) -> Peer:
        def run(number: int) -> Trial:
            os.sync()  # what others have left to write is not ours to wait for
            dist.barrier()
            done = save(number + 1)
            found[name].append(done)
            return Trial(sum(done.bytes_by_rank), done.waited)

        save(0)
        return Peer(name, run)

    peers = [peer(OURS, ours), peer(PLAIN, plain), peer(FORCED, forced)]
    alternate(peers, rounds, print)
    return found


def half_of(shapes: list[tuple[int, ...]], rank: int) -> ShardedOptimizer:
    """One of two flat halves of all parameters, the cut wherever it falls, with moments that are not zero."""
    infos = tuple(ParameterInfo(f"parameter.{number}", shape) for number, shape in enumerate(shapes))
    total = sum(info.numel for info in infos)
    first, last = total * rank // RANKS, total * (rank + 1) // RANKS
    slices, position = [], 0
    for number, info in enumerate(infos):
        start, end = max(first, position), min(last, position + info.numel)
        if start < end:
            slices.append(Slice(number, start - position, start - first, end - start))
        position += info.numel
    optimizer = ShardedOptimizer(
        [torch.nn.Parameter(torch.zeros(1))], LambOptions(), weight_decay=0.0, max_grad_norm=0.0
    )
    optimizer.bind(ShardLayout(infos, (Shard(torch.randn(last - first), tuple(slices)),)))
    for kind in KINDS[1:]:
        optimizer.moments(kind)[0].uniform_()
    return optimizer


def one_step(matrix: torch.Tensor) -> None:
    """Some work and the exchange that a training step has."""
    product = matrix
    for _ in range(PRODUCTS):
        product = product @ matrix
    dist.all_reduce(product[0, :4].clone())


def slowest(seconds: float) -> float:
    """Of all ranks."""
    return max(comm.all_gather_objects(seconds))


def saved_by_us(saver: Saver, number: int, folder: Path, rank: int) -> Save:
    """Through the saver, as the loop does it, until the commit has gone round."""
    matrix = torch.full((WIDTH, WIDTH), 1.0 / WIDTH)
    began = time.perf_counter()
    for _ in range(USUAL_STEPS):
        one_step(matrix)
        comm.all_gather_objects(tuple(saver.report()))
    usual = (time.perf_counter() - began) / USUAL_STEPS
    name = f"step-{number:08d}"
    dist.barrier()
    began = time.perf_counter()
    saver.begin(state_at(number))
    waited, steps = time.perf_counter() - began, 0
    while saver.newest is None or saver.newest.name != name:
        one_step(matrix)
        reports = comm.all_gather_objects(tuple(saver.report()))
        saver.hear(*(sum(each) for each in zip(*reports, strict=True)))
        steps += 1
    whole = time.perf_counter() - began
    files = [folder / name / f"rank-{each:05d}.safetensors" for each in range(RANKS)]
    bytes_by_rank = tuple(file.stat().st_size for file in files)
    return Save(
        slowest(waited), slowest(max(0.0, whole - waited - steps * usual)), slowest(whole), bytes_by_rank
    )


def saved_by_torch(optimizer: ShardedOptimizer, path: Path, rank: int, *, forced: bool) -> Save:
    """Whole tensors are gathered on rank 0, one kind after the other, and saved in one file; the others wait."""
    dist.barrier()
    began = time.perf_counter()
    infos, shard = optimizer.layout.parameters, optimizer.layout.shards[0]
    total, content = sum(info.numel for info in infos), dict[str, dict[str, torch.Tensor]]()
    own = {KINDS[0]: shard.tensor, **{kind: optimizer.moments(kind)[0] for kind in KINDS[1:]}}
    for kind, values in own.items():
        if rank == 0:
            whole = torch.empty(total)
            whole[: len(values)] = values
            dist.recv(whole[len(values) :], src=1)
            sizes = [info.numel for info in infos]
            pieces = zip(infos, whole.split(sizes), strict=True)
            content[kind] = {info.name: piece.view(info.shape) for info, piece in pieces}
        else:
            dist.send(values, dst=0)
    if rank == 0:
        torch.save(content, path)
        if forced:
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
    dist.barrier()
    seconds = slowest(time.perf_counter() - began)
    size = comm.broadcast_object(path.stat().st_size if rank == 0 else None)
    if rank == 0:
        path.unlink()
    return Save(seconds, 0.0, seconds, (size, *[0] * (RANKS - 1)))


def state_at(step: int) -> RunState:
    """With nothing in it that takes room."""
    return RunState(
        step=step,
        cursor=[0, 0, 0],
        applied_steps=step,
        seed=0,
        store_fingerprint="",
        sampling={},
        model_class="",
        model_config_json="{}",
        written_by={},
        run_config={},
    )


if __name__ == "__main__":
    main(sys.argv[1:])
