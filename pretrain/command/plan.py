"""`python -m pretrain plan`: what a run will be, before it is."""

import argparse
import json
import sys
from itertools import chain
from math import isfinite
from pathlib import Path

import psutil
import torch

from pretrain.command.line import Command
from pretrain.command.plan_scale import (
    add_scale_arguments,
    asked_scale,
    check_scale_arguments,
    measured_run,
    settle_gpus,
)
from pretrain.command.printing import make_console, print_whole
from pretrain.errors import UsageError
from pretrain.plan import Asked, Rate, make_plan, measured_rate, open_corpus, sample_names
from pretrain.plan.candidates import tune
from pretrain.plan.document import as_document
from pretrain.plan.fitting import what_fits
from pretrain.plan.planning import DeviceType
from pretrain.plan.search_tables import fits_document, fits_tables, said_of, tuning_document, tuning_tables
from pretrain.plan.tables import tables
from pretrain.plan.tuning import NotTried, Trial
from pretrain.resume import earlier_cut
from pretrain.run_arguments import (
    DEMO_STORE,
    add_output_argument,
    add_resume_argument,
    add_run_arguments,
    chosen_output,
    chosen_store,
    resolved,
    store_origin,
)

_GIB = 1 << 30
_TUNE_SECONDS = 2.0


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    add_output_argument(parser)
    add_resume_argument(parser)
    parser.epilog = (
        "Nothing is written. Of --output and --resume plan takes how batches were cut in the checkpoint that the run "
        "would go on from, as the run does that goes on with another number of ranks."
    )
    parser.add_argument("--ranks", metavar="N", type=int, help="of the run (default: the GPUs here, or 1)")
    parser.add_argument(
        "--nodes",
        metavar="N",
        type=int,
        help="machines that share them (default: 1; of --gpus, 8 to a machine)",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="of the run (default: what is here)")
    parser.add_argument(
        "--memory",
        metavar="GIB",
        type=float,
        help="that one rank may take (default: that of a GPU here, or this machine's over the ranks of a machine)",
    )
    parser.add_argument(
        "--fits",
        action="store_true",
        help="also: the largest micro-batches and models that fit into --memory",
    )
    parser.add_argument(
        "--tune",
        action="store_true",
        help="also: find the micro-batch by measuring on this machine; a minute for a small model",
    )
    parser.add_argument(
        "--seconds",
        metavar="S",
        type=float,
        help=f"of --tune: for which each candidate is timed (default: {_TUNE_SECONDS:g})",
    )
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument("--tokens-per-second", metavar="RATE", type=float, help="of all ranks, for the time")
    pace.add_argument(
        "--run",
        dest="measured_run",
        metavar="RUN",
        type=Path,
        help="take the rate from this run's metrics.jsonl",
    )
    pace.add_argument(
        "--mfu",
        metavar="SHARE",
        type=float,
        help="as metrics.jsonl has it, of a run on --measured-ranks that recomputes no layer (with --gpus: 0.4)",
    )
    add_scale_arguments(parser)
    parser.add_argument(
        "--samples", metavar="STEP", type=int, help="list the samples of this step instead, one a line"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _run(arguments: argparse.Namespace) -> None:
    """Raises UsageError for what does not go together, DataError for a damaged store."""
    asked = _asked(arguments)
    corpus = open_corpus(asked)
    if arguments.samples is not None:
        steps = asked.config.recipe.train.steps
        if steps is not None and arguments.samples > steps:
            raise UsageError(
                f"--samples is {arguments.samples}, but the run has {steps} steps (train.steps)."
            )
        names = sample_names(corpus, asked.config.recipe, arguments.samples)
        line = json.dumps({"step": arguments.samples, "samples": names})
        print(line if arguments.json else "\n".join(names))
        return
    plan = make_plan(asked, corpus)
    memory = asked.memory_bytes or 0
    fits = what_fits(plan, corpus, memory) if arguments.fits else None
    seconds = _TUNE_SECONDS if arguments.seconds is None else arguments.seconds
    tuning = tune(plan, corpus, seconds, _say) if arguments.tune else None
    if arguments.json:
        found = as_document(plan)
        found |= {} if fits is None else {"fits": fits_document(fits, memory)}
        found |= {} if tuning is None else {"tuning": tuning_document(tuning)}
        print(json.dumps(found, indent=1))
    else:
        console = make_console()
        for each in chain(
            tables(plan),
            () if fits is None else fits_tables(plan, fits, memory),
            () if tuning is None else tuning_tables(plan, tuning),
        ):
            print_whole(console, each)
    if tuning is not None and tuning.search.was_stopped:
        raise KeyboardInterrupt  # what there is has been printed


def _say(found: Trial | NotTried) -> None:
    """A search takes a minute or more."""
    print(f"checkpointing {found.checkpointing}, {said_of(found)}", file=sys.stderr, flush=True)


def _asked(arguments: argparse.Namespace) -> Asked:
    check_scale_arguments(arguments)
    settle_gpus(arguments)
    gpus = torch.cuda.device_count()
    ranks = arguments.ranks if arguments.ranks is not None else max(1, gpus)
    device: DeviceType = arguments.device or ("cuda" if gpus else "cpu")
    for name in ("ranks", "samples"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} is {value}: give 1 or more.")
    for name, scale in (("memory", _GIB), ("tokens_per_second", 1), ("seconds", 1)):
        value = getattr(arguments, name)
        if value is not None and not (isfinite(value * scale) and value > 0):
            raise UsageError(f"--{name.replace('_', '-')} is {value:g}: give a number above 0.")
    if arguments.nodes > ranks:
        raise UsageError(
            f"--nodes is {arguments.nodes} but --ranks {ranks}: every machine has a rank at least."
        )
    if arguments.samples is not None and (arguments.fits or arguments.tune):
        raise UsageError("--samples lists a step and nothing else: leave out --fits and --tune.")
    if arguments.seconds is not None and not arguments.tune:
        raise UsageError("--seconds is of --tune: give that too.")
    if arguments.tune and device == "cuda" and not gpus:
        otherwise = "" if arguments.gpus else ", or say --device cpu for a run on CPUs"
        raise UsageError(
            "--tune measures on this machine, which has no GPU that torch can use: run it on a node of the run"
            f"{otherwise}; --fits says without measuring what fits."
        )
    config = resolved(arguments, ranks, earlier_cut(chosen_output(arguments), arguments.resume))
    per_node = -(-ranks // arguments.nodes)
    rate = _rate(arguments)
    memory = _memory(arguments.memory, device, per_node)
    if arguments.fits and memory is None:
        raise UsageError(
            "--fits asks what fits into a GPU that is not here: say how many GiB it has by --memory."
        )
    return Asked(
        config=config,
        backend=arguments.backend,
        store=_store(arguments, chosen_store(arguments, config.recipe), bool(config.recipe.data.blend)),
        ds_config=arguments.ds_config,
        ranks=ranks,
        nodes=arguments.nodes,
        device=device,
        memory_bytes=memory,
        rate=rate,
        store_origin=store_origin(arguments, config.recipe),
        scale=asked_scale(arguments, config.recipe.log.peak_tflops),
        measured_run=measured_run(arguments),
    )


def _store(arguments: argparse.Namespace, store: str | None, is_blend: bool) -> Path | None:
    if store is not None or is_blend:
        return None if store is None else Path(store)
    if not DEMO_STORE.exists():
        raise UsageError(
            "There is no token store to plan with: name one by --data, or build the demo's by `python -m data_prep "
            f"build --demo --output {DEMO_STORE}`."
        )
    return DEMO_STORE


def _memory(said: float | None, device: str, ranks_per_node: int) -> int | None:
    """Bytes of one rank; None for a GPU that is elsewhere."""
    if said is not None:
        return round(said * _GIB)
    if device == "cpu":
        return int(psutil.virtual_memory().total) // ranks_per_node
    return int(torch.cuda.get_device_properties(0).total_memory) if torch.cuda.is_available() else None


def _rate(arguments: argparse.Namespace) -> Rate | None:
    if arguments.measured_run is not None:
        return measured_rate(arguments.measured_run)
    said = arguments.tokens_per_second
    return None if said is None else Rate(said, "--tokens-per-second")


COMMAND = Command(
    name="plan",
    summary="what a run will be: configuration, parameters, length, learning rate, memory of every stage, disk, time",
    add_arguments=_add_arguments,
    run=_run,
)
