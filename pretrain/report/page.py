"""One HTML page about one run or several: everything in it, nothing from elsewhere, at most some megabytes.

1. each run's files are read as streams, once;
2. curves become a bounded number of points, more of them where there are fewer runs;
3. a template, which escapes every value, makes the page; its script is named by checksum in the page's own policy, so
   that no text of a run could run.
"""

import base64
import hashlib
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pretrain import __version__
from pretrain.errors import DataError, UsageError
from pretrain.report.about import About, differences, read_runs, whole_config
from pretrain.report.charts import OF_RANKS, charts_of
from pretrain.report.drawing import HEIGHT, WIDTH, drawn, ends_of
from pretrain.report.happened import KINDS, Event, events_of, shortened
from pretrain.report.ranks import Ranks, read_ranks
from pretrain.report.ratios import read_trust_ratios
from pretrain.report.tables import RunFound, data_table, final_table, ranks_table, runs_table
from pretrain.report.training import SKIPPED, HeldOut, Training, read_held_out, read_training

HERE = Path(__file__).parent
MARK = "<!doctype html>\n<!-- made by python -m pretrain report -->"
MAX_CONFIG_CHARACTERS = 160_000  # of all runs
MAX_EVENTS = 480  # listed, of all runs
# Points of a curve; of all runs' curves in a chart.
MAX_POINTS, MAX_POINTS_OF_ALL = 400, 1280


def write_report(paths: Sequence[Path], output: Path) -> int:
    """Makes the page and returns its bytes; a page of an earlier call is replaced.

    Raises UsageError for what is no run or an output that is something else, OSError where it cannot be written.
    """
    known = read_runs(paths)
    _check(output)
    points = min(MAX_POINTS, MAX_POINTS_OF_ALL // len(known))
    runs = [_found(about, points) for about in known]
    content = page_of(runs).encode("utf-8", errors="replace")
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
    return len(content)


def page_of(runs: Sequence[RunFound]) -> str:
    """The page."""
    charts = charts_of(
        [run.training for run in runs],
        [run.held_out for run in runs],
        [run.ratios for run in runs],
        [run.ranks for run in runs],
    )
    ends = ends_of(charts)
    last = max(
        [run.training.last_step for run in runs] + [event.step for run in runs for event in run.events]
    )
    changes, more_changes = differences([run.about for run in runs])
    styles, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    drawings = [drawn(chart, ends) for chart in charts]
    names = [run.about.name for run in runs]
    return (
        _environment()
        .get_template("page.html")
        .render(
            mark=Markup(MARK),
            styles=Markup(styles),
            script=Markup(script),
            policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{_checksum(script)}'",
            names=names,
            runs=runs,
            made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            version=__version__,
            runs_table=runs_table(runs),
            data_table=data_table(runs),
            final_table=final_table(runs),
            changes=changes,
            more_changes=more_changes,
            configs=[whole_config(run.about, MAX_CONFIG_CHARACTERS // len(runs)) for run in runs],
            ranks_table=ranks_table(runs),
            drawings=[each for each in drawings if each.chart.kind.source != OF_RANKS],
            ranks_drawings=[each for each in drawings if each.chart.kind.source == OF_RANKS],
            data={
                "names": names,
                "ends": ends,
                "charts": {each.chart.identifier: each.data for each in drawings},
            },
            width=WIDTH,
            height=HEIGHT,
            last_step=last,
            marks=[_marks([*run.events, *_skipped(run)], last) for run in runs],
            lists=[shortened(run.events, MAX_EVENTS // len(runs)) for run in runs],
            kinds=KINDS,
            shown_kinds=[
                kind for kind in KINDS if any(event.kind == kind for run in runs for event in run.events)
            ],
        )
    )


def _found(about: About, points: int) -> RunFound:
    """One run; what is damaged becomes a note on the page."""
    notes = list(about.notes)
    training, held_out, ranks, events = Training(), HeldOut(), Ranks(), list[Event]()
    try:
        training = read_training(about.folder, points)
        held_out = read_held_out(about.folder, training, points)
        ranks = read_ranks(about.folder, training, points)
        events = events_of(about.folder, training)
    except DataError as error:
        notes.append(str(error))
    if not training.steps:
        notes.append(
            "There is no step in metrics.jsonl yet: the run has just begun, or ended before its first step."
        )
    files = {
        "metrics.jsonl": training.damaged,
        "eval.jsonl": held_out.damaged,
        "ranks.jsonl": ranks.damaged,
    }
    for name, damaged in files.items():
        if damaged:
            lines = "line is" if damaged == 1 else "lines are"
            notes.append(f"{damaged:,} {lines} damaged or out of order in {name}, and left out.")
    if training.steps and training.first_step > 1:
        notes.append(
            f"metrics.jsonl begins with step {training.first_step:,}: it went on from another folder's checkpoint, "
            "and tokens and seconds count from here."
        )
    if training.steps and not about.folder.events.exists():
        notes.append("There is no events.jsonl, so starts and stops are not known.")
    ratios = read_trust_ratios(about.folder.tensorboard, training, points) if _logs_ratios(about) else None
    return RunFound(about, training, held_out, ratios, ranks, events, notes)


def _logs_ratios(about: About) -> bool:
    """Reading TensorBoard's files takes long."""
    every = about.at("recipe", "log", "parameters_every")
    return isinstance(every, int) and every > 0


def _check(output: Path) -> None:
    """Raises UsageError for an output that is there and no page of ours, or lies nowhere."""
    if not output.parent.is_dir():
        raise UsageError(f"--output {output}: {output.parent} is not a folder; make it first.")
    if not output.exists() and not output.is_symlink():
        return
    if output.is_file() and not output.is_symlink():
        with open(output, "rb") as file:
            if file.read(len(MARK)) == MARK.encode():
                return
    raise UsageError(f"--output {output} is there and is no earlier report: choose another file.")


def _marks(events: Sequence[Event], last: int) -> list[tuple[float, Event]]:
    """Where the events lie, in percent; of those of a kind at one place, the first."""
    places: dict[tuple[str, float], Event] = {}
    for event in events:
        if event.kind != "left out":
            places.setdefault((event.kind, float(round(100 * event.step / max(1, last)))), event)
    return [(percent, event) for (_, percent), event in places.items()]


def _skipped(run: RunFound) -> list[Event]:
    """Where steps were skipped that are too many to be listed."""
    curve = run.training.curves.get(SKIPPED)
    return [] if curve is None else [Event("skipped", int(step), "") for step in curve.x["step"]]


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _checksum(script: str) -> str:
    """As a policy names an inline script."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
