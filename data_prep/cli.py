"""The command line: `python -m data_prep build | merge | tokenizer | verify | inspect | import-megatron`."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from data_prep.arguments import make_parser
from data_prep.build import Job, build, train_tokenizer
from data_prep.choices import (
    build_options,
    check_workers,
    input_options,
    tokenizer_options,
)
from data_prep.inspection import InspectOptions, print_store
from data_prep.megatron import MegatronOptions, import_megatron
from data_prep.parts import Part, merge
from data_prep.progress import Progress
from data_prep.report import Timings, print_report
from data_prep.stopping import Stopped, StopSignals
from data_prep.unfinished import nothing_kept
from pretrain.data.store import MANIFEST_NAME, Manifest, TokenStore, verified_bytes, verify_store
from pretrain.errors import DataError, PretrainError, UsageError

_EXIT_OTHER = 1


def main(argv: Sequence[str] | None = None, stop: StopSignals | None = None) -> int:
    """Run one command; the exit code of the public contract (0 done, 1 other, 2 usage, 3 data, 75 stopped
    by a signal)."""
    commands: dict[str, Callable[[argparse.Namespace], None]] = {
        "build": partial(_build, stop=stop or StopSignals()),
        "merge": _merge,
        "tokenizer": _tokenizer,
        "verify": _verify,
        "inspect": _inspect,
        "import-megatron": _import_megatron,
    }
    try:
        arguments = make_parser().parse_args(argv)
        check_workers(getattr(arguments, "workers", 1))
        commands[arguments.command](arguments)
    except PretrainError as error:
        return _fail(str(error), error.exit_code)
    except OSError as error:  # a full disk, a file that vanished
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}.", _EXIT_OTHER)
    except Stopped as signal:
        stopped = nothing_kept(str(signal))
        return _fail(str(stopped), stopped.exit_code)
    return 0


def _fail(message: str, exit_code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return exit_code


def _build(arguments: argparse.Namespace, stop: StopSignals) -> None:
    if arguments.save_every < 0:
        raise UsageError(f"--save-every is {arguments.save_every}; it must not be negative.")
    if arguments.timings is not None:
        _check_writable(arguments.timings)
    timings = Timings()
    with Progress() as progress:
        job = Job(
            num_workers=arguments.workers,
            progress=progress,
            overwrite=arguments.overwrite,
            resume=arguments.resume,
            part=None if arguments.part is None else Part.parse(arguments.part),
            save_seconds=arguments.save_every,
            timings=timings,
            stop=stop,
        )
        report = build(build_options(arguments), arguments.output, job)
    if arguments.timings is not None:
        arguments.timings.write_text(json.dumps(timings.as_dict(), indent=1) + "\n")
    is_fresh = "encoding" in timings.seconds
    print_report(report, str(arguments.output), Console(), timings if is_fresh else None, progress.said)


def _check_writable(timings: Path) -> None:
    """Raises UsageError where --timings could not be written after hours; leaves nothing there."""
    is_there = timings.exists()
    try:
        timings.open("a").close()
    except OSError as error:
        raise UsageError(f"--timings {timings} cannot be written: {error.strerror or error}.") from None
    if not is_there:
        timings.unlink()


def _merge(arguments: argparse.Namespace) -> None:
    with Progress() as progress:
        report = merge(arguments.store, progress, if_complete=arguments.if_complete)
    if report is not None:
        print_report(report, str(arguments.store), Console())


def _tokenizer(arguments: argparse.Namespace) -> None:
    with Progress() as progress:
        trained = train_tokenizer(
            input_options(arguments),
            tokenizer_options(arguments),
            arguments.output,
            num_workers=arguments.workers,
            progress=progress,
        )
    print(f"{arguments.output}: a vocabulary of {trained.vocab_size:,}")


def _verify(arguments: argparse.Namespace) -> None:
    full = not arguments.quick
    with Progress() as progress:
        total = verified_bytes(Manifest.from_file(arguments.store / MANIFEST_NAME), full=full)
        progress.start("verifying", "bytes", total)
        problems = verify_store(
            arguments.store, full=full, workers=arguments.workers, on_progress=progress.advance
        )
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        raise DataError(f"{arguments.store} failed verification: {len(problems)} problem(s), named above.")
    extent = "checksums and contents" if full else "sizes, report, tokenizer and block tables"
    print(f"{arguments.store}: whole ({extent} checked).")


def _inspect(arguments: argparse.Namespace) -> None:
    options = InspectOptions(
        num_samples=arguments.samples,
        seq_len=arguments.seq_len,
        objective=arguments.objective,
        full=arguments.all,
        as_json=arguments.json,
        seed=arguments.seed,
    )
    print_store(TokenStore.open(arguments.store), Console(), options)


def _import_megatron(arguments: argparse.Namespace) -> None:
    options = MegatronOptions(
        prefixes=tuple(arguments.input),
        tokenizer=arguments.tokenizer,
        heldout=arguments.heldout,
        block_tokens=arguments.block_tokens,
        shard_tokens=arguments.shard_tokens,
        eod_id=arguments.eod_id,
    )
    with Progress() as progress:
        report = import_megatron(options, arguments.output, progress, arguments.overwrite)
    print_report(report, str(arguments.output), Console())
