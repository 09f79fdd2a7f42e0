"""What going through an engine costs: `python -m tests.benchmarks.backends --help`.

The same model, rows, masks and LAMB step, in turns: by a bare loop, which has nothing but them, in one process with a
thread for each core; on two ranks of a thread each by the same loop in torch's DistributedDataParallel, ranks bound to
cores as ours are; and by the whole training through each engine and stage. Ratios are of seconds per step, and hold all
that a run does besides: sharding, metrics, their files, the watchdog's record. Whole cycles of the steps between two
lines on the console are timed, and means taken, so that nothing is left out. A run during which other work had more
than a little of the cores is repeated. Nothing is asserted.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.table import Table
from torch.nn.parallel import DistributedDataParallel

from pretrain import build, comm, cores, heap
from pretrain.backends.carried import BackendName
from pretrain.comm import Placement
from pretrain.data.loader import Loader, StepBatches
from pretrain.data.order import Cursor
from pretrain.data.store import TokenStore
from pretrain.model import PretrainingModel
from pretrain.optim import LambOptions, ShardedOptimizer
from pretrain.rng import key
from pretrain.sharding import ParameterInfo, Shard, ShardLayout, Slice
from tests.benchmarks.amounts import whole
from tests.benchmarks.measure import Peer, Summary, Trial, alternate
from tests.benchmarks.report import make_console, provenance, write
from tests.benchmarks.step_clock import StepClock, Steps, Timing, Work, trial_of, undisturbed
from tests.benchmarks.training_ours import OurRun, make_request, train_ours
from tests.benchmarks.training_text import open_demo
from tests.worlds import run_ranks

BARE = "bare loop, one process"
BARE_DDP = "bare loop, DDP"
ENGINES: tuple[BackendName, ...] = ("deepspeed", "fsdp")
CORES = 2
LOG_EVERY = 10  # steps; the recipe's default
LR = 1e-3
_SECONDS = 1800.0


@dataclass(frozen=True)
class Size:
    """What is trained, and on how many ranks through which stages."""

    settings: tuple[str, ...]
    stages: dict[int, tuple[int, ...]]  # by ranks
    rounds: int
    timing: Timing
    most_repeats: int


SIZES = {
    False: Size(
        ("model.preset=bert-mini", "data.seq_len=128", "train.global_batch=64"),
        {1: (0, 1, 2, 3), 2: (0, 1, 2, 3)},
        3,
        Timing(2, 6.0, cycle=LOG_EVERY),
        4,
    ),
    True: Size(
        ("model.preset=bert-tiny", "data.seq_len=32", "train.global_batch=8"),
        {2: (2,)},
        1,
        Timing(1, 0.2, 2),
        1,
    ),
}


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Runs, prints and writes; the JSON document."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.backends", description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder for the demo store, which stays")
    parser.add_argument("--quick", action="store_true", help="seconds, on a small model: shows that it runs")
    parser.add_argument("--rounds", type=whole, help="how often each of them trains")
    parser.add_argument("--output", type=Path, help="file for the JSON document")
    arguments = parser.parse_args(argv)
    size = SIZES[arguments.quick]
    store = open_demo(arguments.cache, arguments.quick)
    result = provenance("tests.benchmarks.backends", argv) | {"settings": list(size.settings), "worlds": {}}
    table = Table(title=f"a training step, {' '.join(size.settings)}", title_justify="left")
    for heading in ("", "ms", "lowest-highest", f"times {BARE}", f"times {BARE_DDP}"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for ranks, stages in size.stages.items():
        peers = make_peers(store, size, ranks, stages)
        summaries = alternate(peers, arguments.rounds or size.rounds, partial(print, file=sys.stderr))
        result["worlds"][str(ranks)] = add_rows(table, ranks, summaries)
        write(result, arguments.output)
    make_console().print(table)
    return result


def make_peers(store: Path, size: Size, ranks: int, stages: tuple[int, ...]) -> list[Peer]:
    """The bare loops and every engine and stage, with the same global batch in one pass a rank."""
    rows = next(int(each.partition("=")[2]) for each in size.settings if "global_batch" in each)

    def settings(world: int) -> tuple[str, ...]:
        return (*size.settings, f"train.micro_batch={rows // world}", f"log.every={LOG_EVERY}")

    def peer(name: str, function: Any, asked: OurRun, world: int) -> Peer:
        arguments = store, asked, size.timing, CORES // world

        def run(number: int) -> Trial:
            return trial_of(run_ranks(function, world, *arguments, timeout=_SECONDS))

        repeated = undisturbed(run, size.most_repeats, partial(print, file=sys.stderr))
        return Peer(name, repeated, is_ours=name == BARE)

    bare = [peer(BARE, bare_loop, OurRun(settings(1)), 1)]
    if ranks > 1:
        bare.append(peer(BARE_DDP, bare_loop, OurRun(settings(ranks)), ranks))
    ours = [
        peer(f"{engine} {stage}", train_ours, OurRun(settings(ranks), engine, stage), ranks)
        for engine in ENGINES
        for stage in stages
    ]
    return [*bare, *ours]


def bare_loop(store: Path, run: OurRun, timing: Timing, threads: int) -> Steps:
    """On a rank: loader, passes and the optimizer's step on whole parameters, and nothing else."""
    torch.set_num_threads(threads)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    place = Placement(rank, rank, ranks, ranks)
    comm.prepare_environment(place)
    with tempfile.TemporaryDirectory(prefix="bare-") as folder:
        request = make_request(store, run, Path(folder), Path(folder) / "run", place)
    recipe, opened = request.config.recipe, TokenStore.open(store)
    stream = build.row_stream(opened, "train", build.sampling_options(recipe), recipe.seed)
    cut = recipe.train.global_batch, build.engine_options(request).micro_batch, rank, ranks
    cores.share(place, request.device)  # as a run does
    heap.keep_freed_memory(request.device)
    model = build.build_encoder(recipe, opened)
    optimizer = whole_optimizer(model)
    called = DistributedDataParallel(model) if ranks > 1 else model
    called.train()
    clock = StepClock(timing)
    with Loader(stream, Cursor(0, 0, 0), *cut) as loader:
        clock.begin()
        for step, batches in enumerate(loader):
            tokens = bare_step(called, optimizer, batches, key(recipe.seed, "dropout", step, rank))
            if clock.step(Work(tokens)):
                break
    return clock.reading()


def bare_step(
    called: torch.nn.Module, optimizer: ShardedOptimizer, batches: StepBatches, dropout_key: int
) -> int:
    """The real tokens of this rank."""
    tokens = 0
    # DistributedDataParallel averages gradients, and ours are sums over ranks.
    factor = dist.get_world_size()
    for batch in batches.micro_batches:
        torch.manual_seed(dropout_key)
        mlm, nsp = called(batch)
        (factor * (mlm / batches.num_masked + nsp / max(1, batches.num_pairs))).backward()
        tokens += batch.num_tokens
    optimizer.begin(LR)
    optimizer.step()
    optimizer.finish()
    for shard in optimizer.layout.shards:
        shard.tensor.grad = None
    return tokens


def whole_optimizer(model: PretrainingModel) -> ShardedOptimizer:
    """LAMB over whole parameters, as each rank of a replicated model has them."""
    named = list(model.encoder.named_parameters())
    optimizer = ShardedOptimizer(
        [parameter for _, parameter in named], LambOptions(), weight_decay=0.01, max_grad_norm=1.0
    )
    infos = tuple(ParameterInfo(name, tuple(parameter.shape)) for name, parameter in named)
    shards = tuple(
        Shard(parameter, (Slice(number, 0, 0, parameter.numel()),))
        for number, (_, parameter) in enumerate(named)
    )
    optimizer.bind(ShardLayout(infos, shards))
    return optimizer


def add_rows(table: Table, ranks: int, summaries: Sequence[Summary]) -> dict[str, Any]:
    """A row a peer; for the JSON document the same and every trial."""
    seconds = {
        each.peer.name: [trial.details["seconds_per_step"] for trial in each.trials] for each in summaries
    }
    middle = {name: statistics.median(trials) for name, trials in seconds.items()}
    table.add_section()
    table.add_row(f"[bold]{ranks} rank(s)[/bold]")
    found = {}
    for each in summaries:
        name, trials = each.peer.name, seconds[each.peer.name]
        spread = f"{min(trials) * 1e3:,.0f}-{max(trials) * 1e3:,.0f}"
        times = middle[name] / middle[BARE], middle[name] / middle[BARE_DDP] if BARE_DDP in middle else None
        shown = ("" if ratio is None else f"{ratio:.3f}" for ratio in times)
        table.add_row(f"  {name}", f"{middle[name] * 1e3:,.0f}", spread, *shown)
        found[name] = {"seconds": middle[name], "times_bare": times[0], "times_ddp": times[1]}
        found[name] |= {"trials": trials, "details": [dict(trial.details) for trial in each.trials]}
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
