"""What fits, and what was found by trying: tables and sentences for people, plain data for JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Table

from pretrain.plan.candidates import Tuning
from pretrain.plan.fitting import MOST_ROWS, Checkpointing, FittingRows, StageFits
from pretrain.plan.planning import Plan
from pretrain.plan.tables import gib
from pretrain.plan.tuning import NotTried, Trial


def fits_tables(plan: Plan, fits: Sequence[StageFits], memory_bytes: int) -> Iterator[Table | str]:
    """A row for each stage."""
    asked = plan.asked
    table = Table(
        title=(
            f"What fits into {gib(memory_bytes)} of a rank: {asked.backend}, {plan.cut.precision}, {asked.ranks:,} "
            f"rank(s); the most rows of {plan.rows.seq_len} in a micro-batch by activation checkpointing, and the "
            "largest BERT that trains with one row"
        ),
        title_justify="left",
    )
    table.add_column("stage")
    for each in fits[0].micro_batches:
        table.add_column(_checkpointing(each.checkpointing), justify="right")
    table.add_column("largest BERT (full)", justify="right")
    for stage in fits:
        name = f"[bold]{stage.stage}, chosen[/bold]" if stage.is_chosen else str(stage.stage)
        model = stage.model
        largest = (
            "none"
            if model is None
            else f"{model.name}: {model.parameters / 1e6:,.0f} M, {gib(model.peak_bytes)}"
        )
        table.add_row(name, *map(_rows, stage.micro_batches), largest)
    yield table
    yield (
        "By the plan's figures, whether rows divide the batch or not. BERTs: the presets, and larger ones as layers x "
        "width (those of DeBERTa V2, Megatron's BERTs, XLM-R XL and XXL)."
    )


def _checkpointing(choice: Checkpointing) -> str:
    return f"every {choice} layers" if isinstance(choice, int) else choice


def _rows(fitting: FittingRows) -> str:
    if fitting.rows == 0:
        return "none"
    return f"{'over ' * (fitting.rows == MOST_ROWS)}{fitting.rows:,}"


def tuning_tables(plan: Plan, tuning: Tuning) -> Iterator[Table | str]:
    """A row for each candidate, what was not tried, and what to type."""
    asked, best = plan.asked, tuning.search.best
    where = tuning.device if tuning.threads is None else f"{tuning.device}, {tuning.threads} thread(s)"
    compiled = ", compiled" if tuning.compiled else ""
    table = Table(
        title=(
            f"Measured on this machine ({escape(where)}){compiled}: forward and backward of one micro-batch, "
            f"{plan.cut.precision}; peak of a rank under {asked.backend} stage {asked.config.engine.stage} on "
            f"{asked.ranks:,} rank(s)"
        ),
        title_justify="left",
    )
    for index, name in enumerate(
        ("checkpointing", "rows", "real tokens", "real tokens/s", "activations", "peak of a rank", "")
    ):
        table.add_column(name, justify="right" if 0 < index < 6 else "left")
    previous = None
    for each in tuning.search.trials:
        if each.checkpointing != previous:
            table.add_section()
            previous = each.checkpointing
        figures = (f"{each.rows:,}", f"{each.tokens:,}", f"{each.tokens_per_second:,.0f}")
        sizes = (gib(each.activation_bytes), gib(each.peak_bytes))
        table.add_row(_checkpointing(each.checkpointing), *figures, *sizes, _verdict(each, each == best))
    yield table
    for missing in tuning.search.not_tried:
        yield escape(f"Not tried: checkpointing {missing.checkpointing}, {said_of(missing)}.")
    if tuning.search.was_stopped:
        yield "Stopped by SIGINT: nothing else was tried, and what is recommended is the best so far."
    yield from _recommended(plan, tuning)


def _verdict(trial: Trial, is_best: bool) -> str:
    if trial.fits is False:
        return "[red]too large[/red]"
    if not trial.divides:
        return "does not divide the batch"
    return "[bold green]recommended[/bold green]" if is_best else "fits"


def _recommended(plan: Plan, tuning: Tuning) -> Iterator[str]:
    best = tuning.search.best
    if best is None and tuning.search.was_stopped:
        return
    if best is None:
        yield "Nothing fits: take more ranks under stage 3, a smaller model, or shorter rows."
        return
    yield (
        f"Recommended: {' '.join(tuning.overrides)}, which is {tuning.accumulation} micro-batch(es) of {best.rows} "
        f"rows ({best.rows * plan.rows.seq_len:,} tokens with padding) on each of {plan.asked.ranks:,} rank(s)."
    )
    yield from tuning.advice
    yield (
        "The rate is one rank's, without the optimizer step and without exchange between ranks, which larger "
        "micro-batches do less often."
    )


def said_of(found: Trial | NotTried) -> str:
    """A candidate in half a line."""
    if isinstance(found, NotTried):
        return f"{found.rows:,} rows or more: {found.reason}"
    return f"{found.rows:,} rows: {found.tokens_per_second:,.0f} real tokens/s, {gib(found.activation_bytes)}"


def fits_document(fits: Sequence[StageFits], memory_bytes: int) -> dict[str, Any]:
    """Plain data."""
    return {"limit_bytes": memory_bytes, "stages": [asdict(each) for each in fits]}


def tuning_document(tuning: Tuning) -> dict[str, Any]:
    """Plain data."""
    found = tuning.search
    return {
        "device": tuning.device,
        "threads": tuning.threads,
        "compiled": tuning.compiled,
        "was_stopped": found.was_stopped,
        "trials": [asdict(each) | {"tokens_per_second": each.tokens_per_second} for each in found.trials],
        "not_tried": [asdict(each) for each in found.not_tried],
        "recommended": None
        if found.best is None
        else {
            "train.micro_batch": found.best.rows,
            "train.activation_checkpointing": found.best.checkpointing,
            "accumulation": tuning.accumulation,
            "overrides": list(tuning.overrides),
        },
        "advice": list(tuning.advice),
    }
