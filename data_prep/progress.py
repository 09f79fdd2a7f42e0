"""Progress on stderr: a bar on a terminal, elsewhere a line now and then."""

import sys
import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

_SECONDS_BETWEEN_LINES = 10.0
_BYTES_PER_MB = 1e6


class Progress:
    """One phase at a time: `start`, `advance` repeatedly, `stop`. The unit "bytes" is shown as MB and
    MB/s."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._quiet = quiet
        self._bar: RichProgress | None = None
        self._task = TaskID(0)
        self._name, self._unit = "", "files"
        self._said: set[str] = set()
        self._amount = self._total = self._documents = self._amount_before = 0
        self._began = self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_bar()

    def start(self, name: str, unit: str, total: int, done: int = 0) -> None:
        """Begin a phase; a total of 0 means that its length is not known. `done` of it was done earlier, in no time
        of this phase."""
        self._close_bar()
        self._name, self._unit = name, unit
        self._amount, self._total, self._documents = done, total, 0
        self._amount_before = done
        self._began = self._last_line = time.monotonic()
        if self._quiet:
            return
        if not self._is_terminal:
            self._line(f"{name} ...")
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[done]}"),
            TimeRemainingColumn(),
        )
        self._bar = RichProgress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task(name, total=total or None, completed=done, done="")
        self._bar.start()

    def advance(self, amount: int, documents: int = 0) -> None:
        self._amount = min(self._amount + amount, self._total) if self._total else self._amount + amount
        self._documents += documents
        if self._bar is not None:
            self._bar.update(self._task, completed=self._amount, done=self._describe())
        elif not self._quiet and time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._line(f"{self._name}: {self._describe()}{self._eta()}")

    def stop(self) -> None:
        """End the phase."""
        self._close_bar()
        if self._name and not self._quiet:
            done = f"{self._describe()} in " if self._amount else ""
            self._line(f"{self._name}: {done}{time.monotonic() - self._began:.1f} s")
        self._name = ""

    def say(self, message: str) -> None:
        """One line, kept above the bar."""
        if not self._quiet:
            self._line(message)
            self._said.add(message)

    @property
    def said(self) -> frozenset[str]:
        """The lines that were said."""
        return frozenset(self._said)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _describe(self) -> str:
        seconds = max(time.monotonic() - self._began, 1e-9)
        parts = [f"{self._documents:,} documents"] if self._documents else []
        if self._unit == "bytes":
            done_mb, total_mb = self._amount / _BYTES_PER_MB, self._total / _BYTES_PER_MB
            parts.append(f"{done_mb:,.1f} of {total_mb:,.1f} MB" if self._total else f"{done_mb:,.1f} MB")
            new_mb = (self._amount - self._amount_before) / _BYTES_PER_MB
            parts.append(f"{new_mb / seconds:.1f} MB/s")
        elif self._total:
            parts.append(f"{self._amount:,} of {self._total:,} {self._unit}")
        return ", ".join(parts)

    def _eta(self) -> str:
        new = self._amount - self._amount_before
        if not new or not self._total:
            return ""
        seconds = (time.monotonic() - self._began) * (self._total - self._amount) / new
        return f", {seconds:.0f} s to go"

    def _line(self, message: str) -> None:
        self._last_line = time.monotonic()
        if self._bar is not None:
            self._bar.console.print(message, highlight=False, markup=False)
        else:
            print(message, file=sys.stderr, flush=True)
