"""How long a step is modelled to take, as tables for people: what is assumed, each stage, each number of GPUs."""

from collections.abc import Iterator, Sequence

from rich.markup import escape
from rich.table import Table

from pretrain.plan.scale import Exchanged, StepCost
from pretrain.plan.scaling import Scale, ScaleRow

_WORDS = (
    "Milliseconds of a step: of exchanges what is waited for, and in brackets how long they take, the rest of which "
    "hides behind forward and backward; compute: with layers that are computed again, which MFU leaves out; norms: "
    "small sums, of losses and for clipping and trust ratios; save: a checkpoint's part of the time, the copy to host "
    "memory that training waits for; efficiency: over one GPU, with the same global batch. Not in it: data loading, "
    "waiting for the slowest rank, processors that exchanges take from what they hide behind, evaluation, offloading."
)


def scale_tables(scale: Scale, chosen: int) -> Iterator[Table | str]:
    """`chosen`: the stage of the run."""
    yield _assumptions(scale)
    last = scale.worlds[-1].step
    stages = [(_stage(row.step, chosen), row) for row in scale.stages]
    title = f"on {last.ranks:,} GPU(s) on {last.nodes:,} node(s), modelled, by stage"
    yield _times(f"A step {title}", "stage", stages)
    yield _rates(f"The run {title}", "stage", stages)
    worlds = [(f"{row.step.ranks:,}", row) for row in scale.worlds]
    title = f"by number of GPUs, stage {chosen}: those that divide the global batch"
    yield _times(f"A step {title}", "GPUs", worlds)
    yield _rates(f"The run {title}", "GPUs", worlds)
    yield _WORDS
    if scale.has_groups:
        yield "Groups of more ranks than there are GPUs in a row are taken as one group of them all."


def _assumptions(scale: Scale) -> Table:
    table = Table("", "value", "from", title="What the model of a step goes by", title_justify="left")
    table.columns[1].justify = "right"
    pace = scale.pace
    rate = f"{pace.flops_per_second / 1e12:,.1f} TFLOP/s"
    table.add_row("one GPU in forward and backward", rate, escape(pace.origin))
    for each in scale.asked.assumptions:
        table.add_row(escape(each.key), escape(str(each.value)), escape(each.origin))
    return table


def _stage(step: StepCost, chosen: int) -> str:
    return f"[bold]{step.stage}, chosen[/bold]" if step.stage == chosen else str(step.stage)


def _times(title: str, first: str, rows: Sequence[tuple[str, ScaleRow]]) -> Table:
    """Of a step, in milliseconds."""
    table = _table(title, first, "compute", "gradients", "weights", "norms", "optimizer", "step")
    for name, row in rows:
        step = row.step
        table.add_row(
            name,
            _milliseconds(step.compute),
            *(_exchanged(each) for each in (step.gradients, step.weights, step.norms)),
            _milliseconds(step.optimizer),
            f"[bold]{_milliseconds(step.seconds)}[/bold]",
        )
    return table


def _rates(title: str, first: str, rows: Sequence[tuple[str, ScaleRow]]) -> Table:
    """What the steps come to."""
    table = _table(title, first, "samples/s", "tokens/s", "MFU", "efficiency", "save", "hours")
    for name, row in rows:
        table.add_row(
            name,
            f"{row.samples_per_second:,.0f}",
            f"{row.tokens_per_second:,.0f}",
            "" if row.mfu is None else f"{row.mfu:.1%}",
            f"{row.efficiency:.1%}",
            f"{row.save.share:.2%}",
            f"{row.hours:,.2f}",
        )
    return table


def _table(title: str, first: str, *figures: str) -> Table:
    table = Table(first, title=title, title_justify="left")
    for name in figures:
        table.add_column(name, justify="right")
    return table


def _exchanged(each: Exchanged) -> str:
    """Waited for (alone)."""
    if not each.seconds:
        return "0"
    return f"{_milliseconds(each.exposed)} ({_milliseconds(each.seconds)})"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.0f}" if seconds >= 0.1 else f"{1000 * seconds:,.1f}"
