"""The result of a benchmark: one JSON document and one printed table, with the machine and the versions."""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from pretrain import __version__
from tests.benchmarks.measure import Summary, ratio
from tests.worlds import ROOT

PACKAGES = (
    "accelerate",
    "datasets",
    "deepspeed",
    "gigatoken",
    "numba",
    "numpy",
    "pyarrow",
    "sentencepiece",
    "sentencex",
    "tokenizers",
    "torch",
    "transformers",
)
CHANGED, UNKNOWN = "+", "unknown"  # behind the commit of a checkout that differs from it; outside one
_GIB = 1 << 30
_FILE_COLUMNS = 140


def provenance(module: str, arguments: Sequence[str]) -> dict[str, Any]:
    """When, where, with what and by which command."""
    return {
        "command": shlex.join(["python", "-m", module, *arguments]),
        "date": date.today().isoformat(),
        "commit": _commit(),
        "machine": {
            "cpu": _cpu_name(),
            "cores_used": len(os.sched_getaffinity(0)),
            "cores": psutil.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / _GIB, 1),
            "system": f"{platform.system()} {platform.release()}",
            "load_before": round(os.getloadavg()[0], 2),
        },
        "versions": {"python": platform.python_version(), "pretrain": __version__} | _versions(),
    }


def as_json(summaries: Sequence[Summary]) -> list[dict[str, Any]]:
    """One object a peer; ratios are ours over the peer's."""
    ours = next((each for each in summaries if each.peer.is_ours), None)
    found = []
    for each in summaries:
        entry: dict[str, Any] = {"peer": each.peer.name, "note": each.peer.note}
        if not each.trials:
            found.append(entry | {"not_run": each.reason})
            continue
        entry |= {"rate": each.rate, "lowest": each.spread[0], "highest": each.spread[1]}
        entry["trials"] = [
            {
                "amount": trial.amount,
                "seconds": trial.seconds,
                "cpu_seconds": trial.cpu_seconds,
                "startup_seconds": trial.startup_seconds,
                **trial.details,
            }
            for trial in each.trials
        ]
        if ours is not None and each is not ours:
            entry["ours_over_it"] = ratio(ours, each)
        if each.peer.asked is not None:
            entry["floor"], entry["aim"] = each.peer.asked
        found.append(entry)
    return found


class RateTable:
    """Rows of summaries, group by group; `unit` names `per` of what is counted ("MB", "M tokens")."""

    def __init__(self, title: str, unit: str, per: float = 1e6) -> None:
        self._table = Table(title=title, title_justify="left")
        self._per = per
        self._table.add_column("")
        for heading in (
            f"{unit}/s",
            "lowest-highest",
            f"CPU ms/{unit}",
            "start-up s",
            "ours is",
            "floor",
            "aim",
        ):
            self._table.add_column(heading, justify="right", no_wrap=True)
        self._notes: list[str] = []

    def add(self, group: str, summaries: Sequence[Summary]) -> None:
        """A heading and a row a peer."""
        ours = next((each for each in summaries if each.peer.is_ours), None)
        self._table.add_section()
        self._table.add_row(f"[bold]{group}[/bold]")
        for each in summaries:
            peer = each.peer
            asked = [f"{each:g}x" for each in peer.asked or ()]
            if not each.trials:
                self._table.add_row(f"  {peer.name}", "not run", "", "", "", "", *asked)
                self._notes.append(f"{peer.name} was not run: {each.reason}")
                continue
            low, high = each.spread
            cpu = each.median(
                lambda trial: trial.cpu_seconds and trial.cpu_seconds * 1e3 * self._per / trial.amount
            )
            startup = each.median(lambda trial: trial.startup_seconds)
            times = ratio(ours, each) if ours is not None and each is not ours else None
            self._table.add_row(
                f"  {peer.name}",
                f"{each.rate / self._per:,.2f}",
                f"{low / self._per:,.2f}-{high / self._per:,.2f}",
                "" if cpu is None else f"{cpu:,.1f}",
                "" if startup is None else f"{startup:.1f}",
                "" if times is None else f"{times:.1f}x",
                *asked,
            )
            if peer.note:
                self._notes.append(f"{peer.name}: {peer.note}")

    def print(self, console: Console) -> None:
        """The table, then a line about each peer."""
        console.print(self._table)
        for note in dict.fromkeys(self._notes):
            console.print(note, highlight=False, markup=False)


def as_markdown(groups: Mapping[str, Sequence[Summary]], unit: str, per: float) -> str:
    """A table for the docs: a line a peer, in bold the name of its group; `unit` names `per` of what is counted."""
    lines: list[tuple[str, ...]] = [("", f"{unit}/s", "lowest to highest", "ours is"), ("---", *["---:"] * 3)]
    for name, summaries in groups.items():
        ours = next((each for each in summaries if each.peer.is_ours), None)
        lines.append((f"**{name}**", "", "", ""))
        for each in summaries:
            if not each.trials:
                lines.append((each.peer.name, "not run", "", ""))
                continue
            times = ratio(ours, each) if ours is not None and each is not ours else None
            low, high = (f"{bound / per:,.2f}" for bound in each.spread)
            shown = "" if times is None else f"{times:.2f}x"
            lines.append((each.peer.name, f"{each.rate / per:,.2f}", f"{low} to {high}", shown))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def make_console() -> Console:
    """Stdout; wide enough for a table where it is a file."""
    console = Console()
    return console if console.is_terminal else Console(width=_FILE_COLUMNS)


def write(result: dict[str, Any], output: Path | None) -> None:
    """The JSON document at `output`, if one was asked for."""
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written to {output}", file=sys.stderr)


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _commit() -> str:
    """Of the checkout, with "+" where files differ from it; "unknown" outside one."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", f"--dirty={CHANGED}", "--abbrev=12"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN
    return described.stdout.strip()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
