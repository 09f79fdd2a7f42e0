"""What `gpu` has measured: for one GPU, relative to its ceilings, and beside what is asked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.measure import Summary, Trial
from tests.benchmarks.report import as_json


@dataclass(frozen=True)
class Asked:
    """Of ours in a cell, on one H200: real tokens per second, at least and aimed at, and MFU."""

    cell: str
    floor: float
    aim: float
    mfu: float


def measured(summaries: Sequence[Summary], result: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries of the document: for one GPU, and relative to its ceilings where they are known."""
    found = []
    for entry, summary in zip(as_json(summaries), summaries, strict=True):
        if not summary.trials:
            found.append(entry)
            continue
        flops = summary.median(_detail("flops_per_second"))
        own = flops / result["ranks"] if flops else None
        peak, product = result["peak_flops"], result["ceilings"]["product_flops"]
        entry |= {
            "tokens_per_second_per_rank": summary.rate / result["ranks"],
            "mfu": own / peak if own and peak else None,
            "of_products": own / product if own else None,
            "peak_bytes": summary.median(_detail("peak_bytes")),
            "seconds_per_step": summary.median(_detail("seconds_per_step")),
        }
        found.append(entry)
    return found


def _detail(name: str) -> Callable[[Trial], float | None]:
    return lambda trial: trial.details.get(name)


class GpuTable:
    """Rows of entries, group by group, and a line for each that was not run."""

    def __init__(self, device: str) -> None:
        self._table = Table(title=f"training, bf16, for one {device}", title_justify="left")
        self._table.add_column("")
        for heading in ("k tokens/s", "ms a step", "MFU", "of products", "GB at most", "ours is"):
            self._table.add_column(heading, justify="right", no_wrap=True)
        self._notes: list[str] = []

    def add(self, group: str, entries: Sequence[dict[str, Any]]) -> None:
        """A heading and a row for each."""
        self._table.add_section()
        self._table.add_row(f"[bold]{group}[/bold]")
        for entry in entries:
            if "not_run" in entry:
                self._table.add_row(f"  {entry['peer']}", "not run")
                self._notes.append(f"{group}, {entry['peer']} was not run: {entry['not_run']}")
                continue
            self._table.add_row(
                f"  {entry['peer']}",
                f"{entry['tokens_per_second_per_rank'] / 1e3:,.1f}",
                f"{entry['seconds_per_step'] * 1e3:,.0f}",
                _shown(entry["mfu"], ".1%"),
                _shown(entry["of_products"], ".1%"),
                _shown(entry["peak_bytes"] and entry["peak_bytes"] / 1e9, ".1f"),
                _shown(entry.get("ours_over_it"), ".2f", "x"),
            )

    def print(self, console: Console) -> None:
        """The table, then why what was not run."""
        console.print(self._table)
        for note in self._notes:
            console.print(note, highlight=False, markup=False)


def sentence(asked: Asked, entries: Sequence[dict[str, Any]]) -> str:
    """The fastest of ours beside what is asked."""
    ours = [entry for entry in entries if entry["peer"].startswith("ours") and "not_run" not in entry]
    if not ours:
        return f"{asked.cell}: ours was not run"
    best = max(ours, key=lambda entry: entry["tokens_per_second_per_rank"])
    return (
        f"{asked.cell}, {best['peer']}: {best['tokens_per_second_per_rank']:,.0f} real tokens/s "
        f"(floor {asked.floor:,.0f}, aim {asked.aim:,.0f}), MFU {_shown(best['mfu'], '.1%') or 'unknown'} "
        f"(asked: {asked.mfu:.0%}), {_shown(best['of_products'], '.1%') or 'unknown'} of the measured product"
    )


def _shown(value: float | None, how: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{how}}{unit}"
