"""`python -m pretrain report RUN [RUN ...]`: one page about one run, or several side by side."""

import argparse
from pathlib import Path

from pretrain.command.line import Command
from pretrain.report import write_report

_NAME = "report.html"


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="the folders of the runs")
    parser.add_argument(
        "--output",
        metavar="FILE.html",
        type=Path,
        help=f"the page; an earlier one is replaced (default: {_NAME}, of one run in its folder, of several here)",
    )


def _run(arguments: argparse.Namespace) -> None:
    """Raises UsageError for what is no run, or an output that is something else."""
    runs: list[Path] = arguments.runs
    output = arguments.output or (Path(_NAME) if runs[1:] else runs[0] / _NAME)
    num_bytes = write_report(runs, output)
    count = f"{len(runs)} runs" if runs[1:] else "1 run"
    print(f"{output}: {count}, {num_bytes / 1e3:,.0f} kB")


COMMAND = Command(
    name="report",
    summary="one HTML page about one run, or several side by side: configs, curves, data, events; needs no network",
    add_arguments=_add_arguments,
    run=_run,
)
