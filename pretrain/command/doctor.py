"""`python -m pretrain doctor`: whether this machine, or all ranks of this allocation, can train a run.

Alone, or under any launcher: `srun --nodes 2 --ntasks-per-node 1 python -m pretrain doctor ...`.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from time import sleep
from typing import NoReturn

import torch
from rich.console import Console

from pretrain import comm
from pretrain.command.line import Command
from pretrain.doctor.document import as_document, plain, write
from pretrain.doctor.exam import Exam, examine
from pretrain.doctor.here import Here
from pretrain.doctor.launcher import place_of
from pretrain.errors import PretrainError, UsageError
from pretrain.placement import Placement
from pretrain.plan import Asked
from pretrain.resume import earlier_cut
from pretrain.run_arguments import (
    DEMO_STORE,
    add_output_argument,
    add_resume_argument,
    add_run_arguments,
    chosen_output,
    chosen_store,
    resolved,
)

_SECONDS = 20.0


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    add_output_argument(parser)
    add_resume_argument(parser)
    parser.add_argument(
        "--verify", action="store_true", help="read every byte of the stores, which takes as long as that"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=_SECONDS,
        help=f"that a check may take which could hang (default: {_SECONDS:g}); ranks may come three times as late",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _run(arguments: argparse.Namespace) -> int:
    """The exit code. Raises UsageError for what cannot be a run anywhere."""
    if not (isfinite(arguments.seconds) and arguments.seconds > 0):
        raise UsageError(f"--seconds is {arguments.seconds:g}: give a number above 0.")
    try:
        here = _here(arguments)
    except UsageError as error:
        if _is_first(comm.variables()):
            raise
        return error.exit_code
    exam = examine(here)
    if not exam.speaks:
        _leave(0)
    is_heard = exam.was_heard and (here.place is not None or _is_first(here.variables))
    if not is_heard:
        # What went well is the same on the others; a launcher ends all when one ends, so that rank 0 may speak first.
        for line in exam.lines:
            if line.finding.verdict != "ok":
                print(
                    f"rank {_said_rank(here)} on {here.node}: {plain(line, 1).plain.strip()}", file=sys.stderr
                )
        sleep(here.seconds)
    elif arguments.json:
        print(json.dumps(as_document(exam), indent=1))
    else:
        write(exam, Console(highlight=False))
    return _end(here, exam)


def _end(here: Here, exam: Exam) -> int:
    """What hangs in a thread, or in another rank, must not hold this process up."""
    code = exam.exit_code or (0 if exam.was_heard else PretrainError.exit_code)
    if here.ranks > 1:
        _leave(code)
    return code


def _leave(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _said_rank(here: Here) -> str:
    said = here.variables.get("RANK", here.variables.get("SLURM_PROCID", "?"))
    return said if here.place is None else str(here.place.rank)


def _is_first(variables: Mapping[str, str]) -> bool:
    """By what the launcher says, be it contradictory: one process says all, the others what is their own."""
    return variables.get("RANK", variables.get("SLURM_PROCID", "0")) == "0"


def _here(arguments: argparse.Namespace) -> Here:
    variables = comm.variables()
    found = place_of(variables)
    place = None if isinstance(found, UsageError) else found
    known = place or Placement(0, 0, 1, 1)
    output = chosen_output(arguments)
    earlier = earlier_cut(output, arguments.resume, comm.batch_job())
    config = resolved(arguments, known.world_size, earlier)
    store, has_store = chosen_store(arguments, config.recipe), True
    if store is None and not config.recipe.data.blend:
        store, has_store = str(DEMO_STORE), DEMO_STORE.exists()
    asked = Asked(
        config=config,
        backend=arguments.backend,
        store=None if store is None else Path(store),
        ds_config=arguments.ds_config,
        ranks=known.world_size,
        nodes=-(-known.world_size // known.local_world_size),
        device="cuda" if torch.cuda.is_available() else "cpu",
        memory_bytes=None,
        rate=None,
    )
    return Here(
        place, variables, asked, has_store, output, arguments.verify, arguments.seconds, arguments.resume
    )


COMMAND = Command(
    name="doctor",
    summary="whether this machine, or all ranks of this allocation, can train a run: one line for each check",
    add_arguments=_add_arguments,
    run=_run,
)
