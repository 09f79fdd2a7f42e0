"""What happened to a run, in order: starts, stops, faults, skipped steps, reports, checkpoints."""

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pretrain import checkpoint
from pretrain.errors import DataError
from pretrain.report.curves import number
from pretrain.report.lines import read_lines, read_object
from pretrain.report.training import MAX_STEP, Training
from pretrain.run_folder import RunFolder
from pretrain.watch.ending import FaultFolder

MAX_EVENTS = 100  # of the first and of the last lines of events.jsonl each
MAX_REPORTS = 50
MAX_CHECKPOINTS = 100
MAX_TEXT = 400
Lines = list[Mapping[str, Any]]
_REPORT_NAME = re.compile(r"not-finite-step-([0-9]{1,15})\.json")


@dataclass(frozen=True)
class Event:
    """`kind` is one of KINDS; `step` after which, `date` where it is known."""

    kind: str
    step: int
    what: str
    date: str = ""


# What each kind is drawn as.
KINDS: Mapping[str, str] = {
    "start": "▶",
    "restart": "↻",
    "stop": "■",
    "failure": "✖",
    "fault": "⚡",
    "skipped": "│",
    "not finite": "✗",
    "report": "⌕",
    "checkpoint": "●",
    "best checkpoint": "★",
    "finished": "✔",
    "left out": "…",
}


def events_of(folder: RunFolder, training: Training) -> list[Event]:
    """By step, and at one step as they were written. Raises DataError, OSError."""
    found = [*_written(folder, training), *_fault(folder, training), *_reports(folder)]
    for span in training.spans:
        kind = "skipped" if span.what.startswith("skipped") else "not finite"
        steps = f"step {span}" if span.first == span.last else f"steps {span}"
        found.append(Event(kind, span.first, f"{steps} {span.what}"))
    if training.spans_left_out:
        what = f"{training.spans_left_out:,} more skipped or not finite, which are counted but not listed"
        found.append(Event("left out", training.last_step, what))
    return sorted([*found, *_checkpoints(folder)], key=lambda event: event.step)


def shortened(events: Sequence[Event], most: int) -> list[Event]:
    """The first and the last ones, where there are more than `most`."""
    if len(events) <= most:
        return list(events)
    half = most // 2
    left_out = Event("left out", events[half].step, f"{len(events) - 2 * half:,} more events")
    return [*events[:half], left_out, *events[-half:]]


def _written(folder: RunFolder, training: Training) -> Iterator[Event]:
    """The lines of events.jsonl."""
    first, left_out, last = _both_ends(line for line in read_lines(folder.events) if line is not None)
    step, running = 0, False
    for index, line in enumerate([*first, *last]):
        if left_out and index == len(first):
            yield Event("left out", step, f"{left_out:,} more lines of events.jsonl")
        kind, date = line.get("event"), _text(line.get("date"), 40)
        step = _step(line.get("step"), step)
        if kind == "start":
            if running:
                yield Event("failure", step, "The start before this one ended without a word: it was killed.")
            yield Event("restart" if step else "start", step, _start(line, step), date)
            running = True
        elif kind == "end":
            code = line.get("code")
            name = {0: "finished", 75: "stop"}.get(code if isinstance(code, int) else 1, "failure")
            yield Event(name, step, _text(line.get("said")), date)
            running = False
        elif kind == "fault":
            yield Event("fault", step, _text(line.get("said")) or "A fault without a sentence.", date)
            running = False


def _both_ends(lines: Iterable[Mapping[str, Any]]) -> tuple[Lines, int, Lines]:
    """The first lines, how many are between, and the last ones."""
    rest = iter(lines)
    first = list(islice(rest, MAX_EVENTS))
    last: deque[Mapping[str, Any]] = deque(maxlen=MAX_EVENTS)
    passed = 0
    for line in rest:
        last.append(line)
        passed += 1
    return first, passed - len(last), list(last)


def _start(line: Mapping[str, Any], step: int) -> str:
    versions = line.get("versions")
    versions = versions if isinstance(versions, dict) else {}
    parts = [
        f"Went on from step {step:,}" if step else "Started",
        f"on {_text(line.get('host'), 80)}" if line.get("host") else "",
        f"({number(line.get('ranks')):.0f} rank(s), {_text(line.get('backend'), 40)} stage "
        f"{_text(line.get('stage'), 10)}, {_text(line.get('precision'), 20)})",
        f"job {_text(line['job'], 40)}" if line.get("job") else "",
        "with "
        + ", ".join(f"{_text(name, 40)} {_text(value, 40)}" for name, value in islice(versions.items(), 10))
        if versions
        else "",
    ]
    return " ".join(part for part in parts if part)


def _fault(folder: RunFolder, training: Training) -> Iterator[Event]:
    """fault.json, which lies there until the next start."""
    kept = FaultFolder(folder.path).kept()
    if kept is not None:
        yield Event("fault", training.last_step, _text(kept[0].sentence) or "A fault without a sentence.")


def _reports(folder: RunFolder) -> Iterator[Event]:
    """What was found out about steps that were not finite."""
    paths = sorted(islice(folder.path.glob("not-finite-step-*.json"), MAX_REPORTS))
    for path in paths:
        name = _REPORT_NAME.fullmatch(path.name)
        if name is None:
            continue
        try:
            content = read_object(path)
        except (DataError, OSError) as error:
            yield Event("report", int(name[1]), f"{path.name} cannot be read: {_text(str(error))}")
            continue
        yield Event("report", int(name[1]), f"{path.name}: {_found(content)}")


def _found(content: Mapping[str, Any]) -> str:
    findings, weights = content.get("findings"), content.get("master_weights_not_finite")
    if isinstance(weights, list) and weights:
        return f"{len(weights)} master weight(s) were not finite, {_text(weights[0], 120)} first"
    if isinstance(findings, list) and findings and isinstance(findings[0], dict):
        first = findings[0]
        rest = ", ".join(f"{_text(key, 40)} {_text(value, 120)}" for key, value in islice(first.items(), 8))
        return f"{len(findings)} finding(s), the first: {rest}"
    return (
        "it did not come again when the step was repeated"
        if content.get("came_again") is False
        else "no finding"
    )


def _checkpoints(folder: RunFolder) -> Iterator[Event]:
    best = latest = None
    with suppress(DataError, OSError):
        best = checkpoint.find_best(folder.checkpoints)
    with suppress(DataError, OSError):
        latest = checkpoint.find_checkpoint(folder.checkpoints)
    saved = checkpoint.saved_checkpoints(folder.checkpoints)
    for path in saved[:MAX_CHECKPOINTS]:
        step = checkpoint.step_of(path)
        if step >= MAX_STEP:
            continue
        marks = [name for name, chosen in (("best", best), ("latest", latest)) if chosen == path]
        what = f"Checkpoint kept: {path.name}{', ' if marks else ''}{' and '.join(marks)}"
        yield Event("best checkpoint" if path == best else "checkpoint", step, what)
    if len(saved) > MAX_CHECKPOINTS:
        yield Event("left out", 0, f"{len(saved) - MAX_CHECKPOINTS:,} more checkpoints, older ones")


def _step(value: Any, otherwise: int) -> int:
    return value if type(value) is int and 0 <= value < MAX_STEP else otherwise


def _text(value: Any, length: int = MAX_TEXT) -> str:
    """As a text of at most so many characters."""
    text = "" if value is None else str(value)[: length + 1]
    return text if len(text) <= length else text[: length - 1] + "…"
