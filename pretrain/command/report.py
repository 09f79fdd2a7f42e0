"""`python -m pretrain report RUN [RUN ...] --output FILE.html`: one page about one run, or several side by side."""

import argparse
from pathlib import Path

from pretrain.command.line import Command
from pretrain.report import write_report


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="the folders of the runs")
    parser.add_argument(
        "--output", metavar="FILE.html", type=Path, required=True, help="the page; an earlier one is replaced"
    )


def _run(arguments: argparse.Namespace) -> None:
    """Raises UsageError for what is no run, or an output that is something else."""
    num_bytes = write_report(arguments.runs, arguments.output)
    count = f"{len(arguments.runs)} runs" if len(arguments.runs) > 1 else "1 run"
    print(f"{arguments.output}: {count}, {num_bytes / 1e3:,.0f} kB")


COMMAND = Command(
    name="report",
    summary="one HTML page about one run, or several side by side: configs, curves, data, events; needs no network",
    add_arguments=_add_arguments,
    run=_run,
)
