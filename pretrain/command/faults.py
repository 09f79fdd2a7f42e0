"""`python -m pretrain faults`: does harm to tiny runs on purpose, and says which promises are kept here."""

import argparse
import json
import platform
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

from rich.console import Console
from rich.table import Table

import pretrain
from pretrain.command.line import Command
from pretrain.errors import PretrainError, UsageError
from pretrain.faults.bench import Bench
from pretrain.faults.row import Outcome, Row, outcome_of
from pretrain.faults.rows import ROWS

_LAUNCH = Path(pretrain.__file__).resolve().parents[1] / "launch" / "pretrain.py"
_STATES = MappingProxyType({"green": "[green]green", "red": "[red]red", "not run": "not run"})
_VERSIONS = ("torch", "deepspeed", "transformers", "safetensors", "numpy")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", metavar="ROW", nargs="+", help="these rows (default: all)")
    parser.add_argument("--sample", action="store_true", help="some tries of each row, in some minutes")
    parser.add_argument("--list", action="store_true", help="say what the rows are, and do nothing")
    parser.add_argument("--output", metavar="FILE", type=Path, help="write what came of it as JSON")
    parser.add_argument("--folder", metavar="FOLDER", type=Path, help="keep there what the runs leave behind")
    parser.add_argument(
        "--launch",
        metavar="PATH",
        type=Path,
        default=_LAUNCH,
        help="launch/pretrain.py, where it lies elsewhere",
    )


def _run(arguments: argparse.Namespace) -> None:
    """Raises PretrainError where a row is red, UsageError for what cannot be begun."""
    rows, console = _chosen(arguments.only), Console(highlight=False)
    if arguments.list:
        table = Table("row", "fault", "green means")
        for row in rows:
            table.add_row(row.name, row.fault, row.promise)
        console.print(table)
        return
    if not arguments.launch.is_file():
        raise UsageError(
            f"{arguments.launch} is not there: name the launch/pretrain.py of this installation by --launch."
        )
    outcomes = _outcomes(rows, arguments, console)
    console.print(_table(rows, outcomes))
    for outcome in outcomes:
        for what, texts in (("red", outcome.seen), ("not run", outcome.not_run)):
            for text in texts:
                console.print(f"{outcome.name}, {what}: {text}", markup=False, soft_wrap=True)
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(_report(rows, outcomes, arguments), indent=1) + "\n")
    red = [outcome.name for outcome in outcomes if outcome.state == "red"]
    if red:
        raise PretrainError(f"{len(red)} of {len(outcomes)} rows are red: {', '.join(red)}.")


def _chosen(names: list[str] | None) -> list[Row]:
    known = {row.name: row for row in ROWS}
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise UsageError(f"--only {unknown[0]} is no row; there are {', '.join(known)}.")
    return [row for row in ROWS if names is None or row.name in names]


def _outcomes(rows: list[Row], arguments: argparse.Namespace, console: Console) -> list[Outcome]:
    """One after another, each said when it is there."""
    found = []
    with tempfile.TemporaryDirectory(prefix="faults-") as temporary:
        folder = arguments.folder or Path(temporary)
        if arguments.folder is not None and arguments.folder.exists():
            raise UsageError(f"--folder {folder} is there already: choose another.")
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(folder.resolve(), arguments.launch.resolve(), in_full=not arguments.sample)
        for row in rows:
            outcome = outcome_of(row, bench)
            counts = f"{outcome.green} of {outcome.tried} green, {outcome.seconds:.0f} s"
            console.print(f"{row.name}: {outcome.state}; {counts}", markup=False)
            found.append(outcome)
    return found


def _table(rows: list[Row], outcomes: list[Outcome]) -> Table:
    table = Table("row", "fault", "green means", "tried", "green", "seconds", "")
    for row, outcome in zip(rows, outcomes, strict=True):
        figures = (str(outcome.tried), str(outcome.green), f"{outcome.seconds:.0f}")
        table.add_row(row.name, row.fault, row.promise, *figures, _STATES[outcome.state], end_section=True)
    return table


def _report(rows: list[Row], outcomes: list[Outcome], arguments: argparse.Namespace) -> dict[str, object]:
    about = {row.name: {"fault": row.fault, "promise": row.promise} for row in rows}
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "in_full": not arguments.sample,
        "seconds": round(sum(outcome.seconds for outcome in outcomes), 1),
        "machine": platform.platform(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _VERSIONS}},
        "rows": [about[each.name] | asdict(each) | {"state": each.state} for each in outcomes],
    }


COMMAND = Command(
    name="faults",
    summary="kills, stops, cuts off and damages tiny runs on purpose; a table of what is promised and what was kept",
    add_arguments=_add_arguments,
    run=_run,
)
