"""`python -m pretrain export CHECKPOINT|RUN --output FOLDER`: a Hugging Face model folder."""

import argparse
from pathlib import Path

from pretrain.checkpoint import CheckpointManifest, export_model
from pretrain.command.line import Command
from pretrain.command.named import latest_of, stores_of
from pretrain.errors import DataError, PretrainError, UsageError


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", metavar="CHECKPOINT|RUN", type=Path, help="a checkpoint, or the latest of a run"
    )
    parser.add_argument(
        "--output", metavar="FOLDER", type=Path, required=True, help="a folder that is not there"
    )
    parser.add_argument(
        "--tokenizer", metavar="PATH", type=Path, help="a tokenizer's folder (default: the store's)"
    )


def _run(arguments: argparse.Namespace) -> None:
    """Raises UsageError for a folder that is there or a tokenizer that is not, DataError for damage."""
    output = arguments.output
    if output.exists() or output.is_symlink():
        raise UsageError(f"--output {output} is there already: choose another folder.")
    if arguments.tokenizer is not None and not arguments.tokenizer.is_dir():
        raise UsageError(
            f"--tokenizer {arguments.tokenizer} is not a folder: give that of a Hugging Face tokenizer."
        )
    while True:
        checkpoint = latest_of(arguments.path)
        try:
            print(_exported(arguments.path, checkpoint, arguments.tokenizer, output))
            return
        except DataError:
            if checkpoint.exists():
                raise
            # The run goes on meanwhile, and has removed it for a newer one.


def _exported(path: Path, checkpoint: Path, tokenizer: Path | None, output: Path) -> str:
    """What was written."""
    state = CheckpointManifest.read(checkpoint).state
    if tokenizer is None:
        store = stores_of(path, state)[0]
        try:
            tokenizer = store.open().tokenizer_path
        except PretrainError as error:
            raise UsageError(
                f"The tokenizer is the token store's, and {str(error).rstrip('.')}: name a tokenizer's folder by "
                "--tokenizer."
            ) from None
    export_model(checkpoint, tokenizer, output, checksums=True)
    return f"{output}: {state.model_class} of step {state.step}, tokenizer of {tokenizer}"


COMMAND = Command(
    name="export",
    summary="a checkpoint as a Hugging Face model folder with its tokenizer; safetensors, no engine needed",
    add_arguments=_add_arguments,
    run=_run,
)
