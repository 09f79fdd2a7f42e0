"""The terminal: a bar where somebody watches, plain lines where a log file does."""

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from pretrain.metrics.records import EvalRecord, StepRecord


class Terminal:
    """Speaks on rank 0; silent on the others."""

    def __init__(self, speaks: bool, log_every: int) -> None:
        self._console = Console(quiet=not speaks, highlight=False, soft_wrap=True)
        self._log_every = log_every
        self._bar: Progress | None = None
        self._task: Any = None

    def say(self, text: str) -> None:
        """One line."""
        self._console.print(text, markup=False)

    def begin(self, finished_steps: int, total_steps: int) -> None:
        """The training begins or goes on."""
        if self._console.is_terminal and not self._console.quiet:
            columns = (
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task("", total=total_steps, completed=finished_steps, figures="")
            self._bar.start()

    def step(self, record: StepRecord, total_steps: int, seconds_left: float) -> None:
        """One optimizer step."""
        figures = (
            f"loss {record.loss:.4f}  mlm {record.mlm_loss:.4f}  nsp {record.nsp_loss:.4f}  lr {record.lr:.3g}  "
            f"norm {record.grad_norm:.3g}  {record.tokens_per_second:,.0f} tokens/s"
        )
        if self._bar is not None:
            self._bar.update(self._task, total=total_steps, completed=record.step, figures=figures)
        elif record.step % self._log_every == 0 or record.step == total_steps:
            minutes, seconds = divmod(round(seconds_left), 60)
            self.say(f"step {record.step}/{total_steps}  {figures}  {minutes}:{seconds:02d} left")

    def evaluation(self, record: EvalRecord) -> None:
        """One validation in a line."""
        nsp = "" if record.nsp_accuracy is None else f"  nsp accuracy {record.nsp_accuracy:.3f}"
        self.say(
            f"held out after step {record.step}: mlm loss {record.mlm_loss:.4f}  [MASK]-only "
            f"{record.mask_only_loss:.4f}  unigram entropy {record.unigram_entropy:.4f}  accuracy "
            f"{record.mlm_accuracy:.3f}{nsp}"
        )
        for name, figures in (record.stores or {}).items():
            self.say(
                f"  {name}: mlm loss {figures['mlm_loss']:.4f}  [MASK]-only {figures['mask_only_loss']:.4f}  "
                f"unigram entropy {figures['unigram_entropy']:.4f}  accuracy {figures['mlm_accuracy']:.3f}"
            )

    def summary(self, record: EvalRecord) -> None:
        """The last validation as a table, with what each figure is to be held against."""
        table = Table(title=f"Held-out text after {record.step} steps", title_justify="left")
        table.add_column("figure")
        table.add_column("value", justify="right")
        table.add_column("reads")
        table.add_row(
            "unigram entropy", f"{record.unigram_entropy:.3f}", "the best that a model without context can do"
        )
        below = record.unigram_entropy - record.mask_only_loss
        side = "below" if below >= 0 else "above"
        table.add_row(
            "[MASK]-only loss",
            f"{record.mask_only_loss:.3f}",
            f"{abs(below):.3f} nat {side} the unigram entropy",
        )
        if record.shuffled_mask_only_loss is not None:
            lost = record.shuffled_mask_only_loss - record.mask_only_loss
            table.add_row(
                "  context shuffled",
                f"{record.shuffled_mask_only_loss:.3f}",
                f"{lost:+.3f} nat: what word order gives",
            )
        table.add_row("MLM loss", f"{record.mlm_loss:.3f}", "all selected positions")
        table.add_row("MLM accuracy", f"{record.mlm_accuracy:.3f}", f"of {record.masked:,} positions")
        if record.nsp_accuracy is not None and record.nsp_accuracy_low is not None:
            bound = f"95% bound {record.nsp_accuracy_low:.3f} of {record.pairs:,} pairs; guessing gives 0.5"
            table.add_row("NSP accuracy", f"{record.nsp_accuracy:.3f}", bound)
        for name, figures in (record.stores or {}).items():
            table.add_row(
                f"{name}",
                f"{figures['mask_only_loss']:.3f}",
                f"[MASK]-only loss in {figures['rows']} rows; unigram entropy {figures['unigram_entropy']:.3f}",
            )
        self._console.print(table)

    def end(self) -> None:
        """The bar goes; what was said stays."""
        if self._bar is not None:
            self._bar.stop()
