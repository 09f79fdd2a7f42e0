"""One command line of many commands: arguments in, an exit code out, a mistake in one sentence."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from pretrain.errors import PretrainError, StoppedBySignal, UsageError


@dataclass(frozen=True)
class Command:
    """What `python -m pretrain NAME` does. `run` may return an exit code; None is 0."""

    name: str
    summary: str  # one line
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]


class _Parser(argparse.ArgumentParser):
    """Takes options by their whole names, and leaves it to `run` to say what is wrong."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; `{self.prog} --help` lists what there is.")


def run(commands: Sequence[Command], argv: Sequence[str] | None) -> int:
    """Runs the command that `argv` (None: the process's arguments) names; without one, says what there is."""
    parser = _Parser(prog="python -m pretrain", description="Commands around a run.")
    choices = parser.add_subparsers(dest="command", metavar="COMMAND")
    for command in commands:
        of_command = choices.add_parser(command.name, help=command.summary, description=command.summary)
        command.add_arguments(of_command)
        of_command.set_defaults(run=command.run)
    try:
        arguments, others = parser.parse_known_args(argv)
        _take(choices.choices.get(arguments.command, parser), arguments, others)
        if arguments.command is None:
            parser.print_help()
        else:
            code: int | None = arguments.run(arguments)
            return code or 0
    except PretrainError as error:
        return _fail(str(error), error.exit_code)
    except BrokenPipeError:  # whoever read the output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PretrainError.exit_code
    except OSError as error:  # a full disk, a file that vanished
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}.", PretrainError.exit_code)
    except KeyboardInterrupt:
        return _fail("stopped by SIGINT before it was done; start it again.", StoppedBySignal.exit_code)
    return 0


def _take(parser: argparse.ArgumentParser, arguments: argparse.Namespace, others: list[str]) -> None:
    """Overrides that stand apart from the first ones, behind other options. Raises UsageError for what else is left."""
    taken = getattr(arguments, "overrides", None)
    wrong = [each for each in others if taken is None or each.startswith("-")]
    if wrong:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    if taken is not None:
        taken.extend(others)


def _fail(message: str, exit_code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return exit_code
