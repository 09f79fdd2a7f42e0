"""`python -m pretrain verify RUN|CHECKPOINT`: whether what was saved is whole."""

import argparse
import os
import sys
from pathlib import Path

from pretrain.checkpoint import CheckpointManifest, verify_checkpoint
from pretrain.command.line import Command
from pretrain.command.named import UsedStore, checkpoints_of, describe, latest_of, stores_of
from pretrain.data.store import verify_store
from pretrain.errors import DataError, PretrainError


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="RUN|CHECKPOINT", type=Path, help="all checkpoints of a run, or one")
    parser.add_argument(
        "--stores",
        action="store_true",
        help="every checksum of the token stores as well, where they are there",
    )
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
    stores: dict[str, UsedStore] = {}
    for checkpoint in checkpoints:
        found = _verified(path, checkpoint, stores, checksums=not arguments.quick)
        if found and not checkpoint.exists():
            print(f"{checkpoint}: removed meanwhile, as a run does that goes on")
        else:
            problems += found
    if arguments.stores:
        for store in stores.values():
            problems += _store_problems(store)
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        raise DataError(f"{path} failed verification: {len(problems)} problem(s), named above.")


def _store_problems(store: UsedStore) -> list[str]:
    """Every checksum and count of a store that must be there."""
    try:
        folder = store.open().path
    except PretrainError as error:
        return [f"{store.name or 'A store'}: {error}"]
    problems = verify_store(folder, full=True, workers=len(os.sched_getaffinity(0)))
    if not problems:
        print(f"{folder}: whole; fingerprint {store.fingerprint[:12]}")
    return problems


def _verified(path: Path, checkpoint: Path, stores: dict[str, UsedStore], checksums: bool) -> list[str]:
    """Its problems; says what it is if it has none. `stores`, by fingerprint, gets those it was trained on."""
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
            stores.setdefault(store.fingerprint, store)
    return problems


COMMAND = Command(
    name="verify",
    summary="every checksum and every element of a run's checkpoints, or of one; names what is damaged",
    add_arguments=_add_arguments,
    run=_run,
)
