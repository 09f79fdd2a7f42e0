"""A plan as tables for people: what comes first is what was decided, what comes last is whether it fits."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from rich.markup import escape
from rich.table import Table

from pretrain.plan.planning import Plan, StageMemory
from pretrain.plan.scale_tables import scale_tables
from pretrain.plan.settings import DEFAULT

_GIB = 1 << 30
_MOST_READABLE = 1e15
_YEAR_SECONDS = 365.25 * 24 * 3600
_MEMORY_WORDS = (
    "weights: with fp32 masters; optimizer: moments; buffers: what is gathered, or summed in one piece; saving: the "
    "copy that a checkpoint is written from, unless it finds room where buffers were; libraries: measured here; data: "
    "batches that are made ahead; heap: what the C library keeps of memory that is free again, as it was measured."
)
_SCALES = ((1e24, "Y"), (1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))


def tables(plan: Plan) -> Iterator[Table | str]:
    """One after another, with a line between them where a figure needs one."""
    yield _settings(plan)
    yield _parameters(plan)
    yield _course(plan)
    if plan.scale is not None:
        yield from scale_tables(plan.scale, plan.asked.config.engine.stage)
    yield _rates(plan)
    yield _checkpoints(plan)
    yield _memory(plan)
    yield _MEMORY_WORDS if plan.asked.device == "cpu" else _MEMORY_WORDS.partition("; saving")[0] + "."
    yield from _verdict(plan)


def gib(num_bytes: float) -> str:
    """ "1.25 GiB"; small ones in MiB."""
    return (
        f"{num_bytes / _GIB:,.2f} GiB" if abs(num_bytes) >= _GIB / 10 else f"{num_bytes / (1 << 20):,.1f} MiB"
    )


def _table(title: str, *columns: str, numbers: bool = True) -> Table:
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if numbers and index else "left")
    return table


def _settings(plan: Plan) -> Table:
    table = _table(
        "Configuration: every key, and where its value came from", "key", "value", "from", numbers=False
    )
    section = ""
    for each in plan.settings:
        name = each.key.partition(".")[0]
        if name != section:
            table.add_section()
            section = name
        origin = "[dim]default[/dim]" if each.origin == DEFAULT else escape(each.origin)
        table.add_row(each.key, escape(_value(each.value)), origin)
    table.add_section()
    cut, asked = plan.cut, plan.asked
    ranks = f"{asked.ranks:,} rank(s) on {asked.nodes:,} machine(s)"
    table.add_row("ranks", f"{asked.ranks:,}", f"--ranks, --nodes: {ranks}, {asked.device}")
    table.add_row("precision", cut.precision, "ds_config and device")
    rows = f"{cut.micro_batch:,} rows x {asked.ranks:,} rank(s) x {cut.accumulation:,}"
    table.add_row("global batch", rows, "micro-batch x ranks x accumulation steps")
    return table


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else str(value)


def _parameters(plan: Plan) -> Table:
    table = _table("Parameters", "part", "parameters", "share", "trained", "frozen")
    counts = plan.parameters
    for part in counts.parts:
        frozen = part.numel - part.trained
        table.add_row(
            part.name,
            f"{part.numel:,}",
            f"{part.numel / counts.numel:.1%}",
            f"{part.trained:,}",
            f"{frozen:,}",
        )
    table.add_section()
    table.add_row("all", f"{counts.numel:,}", "100%", f"{counts.trained:,}", f"{counts.frozen:,}")
    return table


def _course(plan: Plan) -> Table:
    """A column for each size of the global batch, and one for the run."""
    course, rows = plan.course, plan.rows
    headings = [f"a step of {each.rows:,} rows" for each in course.batches]
    table = _table("Batches and length", "", *headings, "the run")
    for name, label in (
        ("rows", f"rows of {rows.seq_len} tokens"),
        ("samples", "samples (what published batch sizes count)"),
        ("tokens", "real tokens"),
        ("masked", "masked tokens, to be predicted"),
    ):
        figures = [getattr(each, name) for each in course.batches]
        table.add_row(label, *(f"{each:,.0f}" for each in figures), f"{course.total(name):,.0f}")
    flops = [_scaled(each.flops) for each in course.batches]
    table.add_row("FLOPs, forward and backward", *flops, _scaled(course.total("flops")))
    table.add_section()
    blanks = [""] * len(course.batches)
    table.add_row(
        f"steps (by {course.ended_by})", *(f"{each.steps:,}" for each in course.batches), f"{course.steps:,}"
    )
    for store, epochs in zip(rows.stores, course.epochs, strict=True):
        label = "epochs over the store" if len(rows.stores) == 1 else f"epochs over {escape(store.name)}"
        table.add_row(f"{label} ({store.text_tokens:,} tokens)", *blanks, f"{epochs:,.3g}")
    table.add_row("samples in a row", *blanks, f"{rows.samples_per_row:.2f}")
    table.add_row("padding, of the places in rows", *blanks, f"{rows.padding_share:.2%}")
    table.add_row("masked, of the real tokens", *blanks, f"{rows.masked_share:.2%}")
    rate = plan.rate
    if rate is None:
        table.add_row(
            "time: give --tokens-per-second, --run RUN, or --gpus N with --mfu", *blanks, "not known"
        )
    else:
        table.add_row(
            f"time at {_pace(rate.tokens_per_second)} tokens/s ({escape(rate.origin)})",
            *blanks,
            _duration(course.seconds),
        )
    return table


def _scaled(value: float) -> str:
    """ "1.23 P" for 1.23e15."""
    for scale, letter in _SCALES:
        if value >= scale:
            return f"{value / scale:,.3g} {letter}"
    return f"{value:,.0f}"


def _pace(tokens_per_second: float) -> str:
    """ "20,000,000"; where that says nothing or is too long to be read, "1e-09"."""
    readable = 1 <= tokens_per_second < _MOST_READABLE
    return f"{tokens_per_second:,.0f}" if readable else f"{tokens_per_second:.3g}"


def _duration(seconds: float | None) -> str:
    """Hours, minutes and seconds, and days where there are any; years where a calendar has no room for them."""
    if seconds is None:
        return "not known"
    if seconds >= timedelta.max.total_seconds():
        return f"{seconds / _YEAR_SECONDS:.3g} years"
    return str(timedelta(seconds=round(seconds)))


def _rates(plan: Plan) -> Table:
    table = _table("Learning rate", "step", "rate", "")
    for each in plan.rates:
        table.add_row(f"{each.step:,}", f"{each.lr:.4g}", each.what)
    table.columns[0].justify, table.columns[2].justify = "right", "left"
    return table


def _checkpoints(plan: Plan) -> Table:
    figures = plan.checkpoints
    table = _table("Checkpoints", "", "bytes")
    table.add_row("one checkpoint: master weights and moments in fp32", gib(figures.whole_bytes))
    table.add_row(f"of it the largest file of {figures.files:,}, one a rank", gib(figures.rank_bytes))
    table.add_row("the Hugging Face model at the end", gib(figures.model_bytes))
    kept = f"on disk: {figures.kept} of {figures.saved} stay, one more while it is written, the model"
    table.add_row(kept, gib(figures.disk_bytes))
    return table


def _memory(plan: Plan) -> Table:
    """A row for each stage."""
    asked, cut = plan.asked, plan.cut
    recipe = asked.config.recipe
    recomputed = recipe.train.activation_checkpointing
    title = (
        f"Memory of one rank at its peak: {asked.backend}, {cut.precision}, {asked.ranks:,} rank(s), micro-batch of "
        f"{cut.micro_batch} rows, activation checkpointing {recomputed}"
    )
    on_cpu = plan.memory[0].resident is not None
    of_process = ("saving", "libraries", "data", "heap") if on_cpu else ()
    offloads = any(each.live.on_host for each in plan.memory)
    columns = ("weights", "optimizer", "gradients", "buffers", "activations", *(("on the host",) * offloads))
    table = _table(title, "stage", *columns, *of_process, "peak", "")
    for each in plan.memory:
        live, host = each.live, each.resident
        figures = [live.weights, live.optimizer, live.gradients, live.buffers, live.activations]
        if offloads:
            figures.append(-live.on_host)
        if host is not None:
            figures += [host.saving, host.libraries, host.data, host.kept]
        name = f"[bold]{each.stage}, chosen[/bold]" if each.is_chosen else str(each.stage)
        table.add_row(name, *map(gib, figures), f"[bold]{gib(each.peak)}[/bold]", _mark(each))
    return table


def _mark(memory: StageMemory) -> str:
    if memory.fits is None:
        return ""
    return "[green]fits[/green]" if memory.fits else "[red]too large[/red]"


def _verdict(plan: Plan) -> Iterator[str]:
    asked = plan.asked
    if asked.memory_bytes is not None:
        fitting = [str(each.stage) for each in plan.memory if each.fits]
        room = f"{gib(asked.memory_bytes)} per rank"
        if fitting:
            yield f"Into {room} fit: stage {', '.join(fitting)}."
        else:
            yield (
                f"No stage fits into {room}: lower train.micro_batch, set train.activation_checkpointing=full, or "
                "take more ranks under stage 3."
            )
    if asked.device == "cuda":
        yield (
            "Of a GPU this is what torch has allocated at the peak, without its reserve and CUDA's own; it has not "
            "been tried on one."
        )
    if asked.config.recipe.train.compile:
        yield "Activations are those of uncompiled layers; train.compile needs about as many or fewer."
