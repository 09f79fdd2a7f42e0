"""`python -m pretrain verify RUN|CHECKPOINT`: whether what was saved is whole."""

import argparse
import os
import sys
from pathlib import Path

from pretrain.checkpoint import CheckpointManifest, verify_checkpoint
from pretrain.command.line import Command
from pretrain.command.named import checkpoints_of, describe, latest_of, stores_of
from pretrain.errors import DataError


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="RUN|CHECKPOINT", type=Path, help="all checkpoints of a run, or one")
    parser.add_argument("--quick", action="store_true", help="all but the checksums of the files")


def _run(arguments: argparse.Namespace) -> None:
    """Raises DataError after naming every problem."""
    path: Path = arguments.path
    problems = []
    checkpoints = checkpoints_of(path)
    try:
        latest = latest_of(path)
    except DataError as error:
        problems.append(str(error))
    else:
        if latest not in checkpoints:
            checkpoints = [latest, *checkpoints]  # killed while its step was saved again
    for checkpoint in checkpoints:
        problems += _verified(path, checkpoint, checksums=not arguments.quick)
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        raise DataError(f"{path} failed verification: {len(problems)} problem(s), named above.")


def _verified(path: Path, checkpoint: Path, checksums: bool) -> list[str]:
    """Its problems; says what it is if it has none."""
    try:
        manifest = CheckpointManifest.read(checkpoint)
    except DataError as error:
        return [str(error)]
    workers = len(os.sched_getaffinity(0))
    problems = verify_checkpoint(checkpoint, manifest, checksums=checksums, workers=workers)
    if not problems:
        whole = "whole" if checksums else "whole but for its checksums, which were not looked at"
        print(f"{checkpoint}: {whole}; {describe(manifest)}")
        for store in stores_of(path, manifest.state):
            print(f"  trained on {store.described()}")
    return problems


COMMAND = Command(
    name="verify",
    summary="every checksum and every element of a run's checkpoints, or of one; names what is damaged",
    add_arguments=_add_arguments,
    run=_run,
)
