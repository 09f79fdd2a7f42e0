"""metrics.jsonl and eval.jsonl, read once as streams: curves, sums, and the steps that something happened at."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite, isnan, nan
from typing import Any

import numpy as np

from pretrain.report.curves import Buckets, Curve, number
from pretrain.report.lines import count_lines, read_lines
from pretrain.run_folder import RunFolder

LOSSES = ("loss", "mlm_loss", "nsp_loss", "grad_norm")
OTHERS = ("lr", "tokens_per_second", "loss_scale", "mfu", "global_batch", "noise_scale")
HELD_OUT = (
    *("mlm_loss", "mask_only_loss", "shuffled_mask_only_loss", "unigram_entropy"),
    *("mlm_accuracy", "nsp_accuracy", "nsp_accuracy_low"),
)
MAX_STEP = 1 << 53
SKIPPED = "any skipped"  # of a bucket: where the time line has its marks, however many there are
MAX_SPANS = 200
MAX_TEXT = 40


@dataclass
class Span:
    """Consecutive steps that the same happened to."""

    first: int
    last: int
    what: str

    def __str__(self) -> str:
        return f"{self.first:,}" if self.first == self.last else f"{self.first:,} to {self.last:,}"


@dataclass
class Extremes:
    """Of one figure over all steps: the lowest, the highest and the last finite value, each with its step."""

    lowest: tuple[float, int] = (nan, 0)
    highest: tuple[float, int] = (nan, 0)
    last: tuple[float, int] = (nan, 0)

    def add(self, value: float, step: int) -> None:
        self.last = (value, step)
        if not value >= self.lowest[0]:
            self.lowest = (value, step)
        if not value <= self.highest[0]:
            self.highest = (value, step)


@dataclass
class Training:
    """What metrics.jsonl says. `tokens`, `samples`, `rows` and `seconds` are sums over the steps that are there."""

    curves: Mapping[str, Curve] = field(default_factory=dict)
    extremes: dict[str, Extremes] = field(default_factory=dict)
    steps: int = 0
    first_step: int = 0
    last_step: int = 0
    tokens: float = 0.0
    samples: float = 0.0
    rows: float = 0.0
    seconds: float = 0.0
    cursor: list[int] = field(default_factory=list)
    damaged: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    not_finite: int = 0
    spans: list[Span] = field(default_factory=list)
    spans_left_out: int = 0

    def add(self, line: Mapping[str, Any]) -> None:
        """Counts one step; `is_next` has said that it is one."""
        step = int(line["step"])
        self.first_step = self.first_step if self.steps else step
        self.steps, self.last_step = self.steps + 1, step
        for name in ("tokens", "samples", "seconds"):
            setattr(self, name, getattr(self, name) + _counted(line.get(name)))
        self.rows += _counted(line.get("global_batch"))
        cursor = line.get("cursor")
        if isinstance(cursor, list) and all(type(each) is int for each in cursor):
            self.cursor = cursor
        for name in (*LOSSES, *OTHERS):
            value = number(line.get(name))
            if isfinite(value):
                self.extremes.setdefault(name, Extremes()).add(value, step)
        self._note(step, line)

    def _note(self, step: int, line: Mapping[str, Any]) -> None:
        bad = [name for name in LOSSES if name in line and isnan(number(line[name]))]
        self.not_finite += bool(bad)
        if line.get("skipped") is True:
            reason = str(line.get("skipped_because") or "reason unknown")[:MAX_TEXT]
            self.skipped[reason if reason in self.skipped or len(self.skipped) < MAX_TEXT else "others"] += 1
            self._span(step, f"skipped: {reason}")
        elif bad:
            self._span(step, f"not finite: {', '.join(bad)}")

    def _span(self, step: int, what: str) -> None:
        last = self.spans[-1] if self.spans else None
        if last is not None and last.last == step - 1 and last.what == what and not self.spans_left_out:
            last.last = step
        elif len(self.spans) < MAX_SPANS:
            self.spans.append(Span(step, step, what))
        else:
            self.spans_left_out += 1

    def is_next(self, line: Mapping[str, Any] | None) -> bool:
        """Whether this is a line of a later step than the last; else it counts as damaged."""
        step = None if line is None else line.get("step")
        good = type(step) is int and (self.last_step if self.steps else 0) < step < MAX_STEP
        self.damaged += not good
        return good


def read_training(folder: RunFolder, points: int) -> Training:
    """All steps, in curves of at most `points` points. Raises DataError, OSError."""
    training = Training()
    buckets = Buckets((*LOSSES, *OTHERS, SKIPPED), count_lines(folder.metrics), points)
    for line in _good(training, folder):
        place = {"step": training.last_step, "tokens": training.tokens, "seconds": training.seconds}
        # A figure that is null for want of something else, as mfu, is none; a loss that is null is not finite.
        known = {name: value for name, value in line.items() if name in LOSSES or value is not None}
        buckets.add(place, known | ({SKIPPED: 1.0} if line.get("skipped") is True else {}))
    training.curves = buckets.curves()
    return training


def _good(training: Training, folder: RunFolder) -> Iterator[dict[str, Any]]:
    for line in read_lines(folder.metrics):
        if training.is_next(line) and line is not None:
            training.add(line)
            yield line


@dataclass
class HeldOut:
    """What eval.jsonl says; `last`: the figures of the last validation, `best`: (lowest MLM loss, its step)."""

    curves: Mapping[str, Curve] = field(default_factory=dict)
    count: int = 0
    last: dict[str, float] = field(default_factory=dict)
    best: tuple[float, int] = (nan, 0)
    stores: dict[str, dict[str, float]] = field(default_factory=dict)
    damaged: int = 0


def read_held_out(folder: RunFolder, training: Training, points: int) -> HeldOut:
    """All validations; where they lie in tokens and seconds is read off the training. Raises DataError, OSError."""
    found, losses = HeldOut(), Extremes()
    buckets = Buckets(HELD_OUT, count_lines(folder.evaluations), points)
    place_of = place_at(training)
    for line in read_lines(folder.evaluations):
        step = None if line is None else line.get("step")
        if line is None or type(step) is not int or not 0 <= step < MAX_STEP:
            found.damaged += 1
            continue
        buckets.add(place_of(step), {name: value for name, value in line.items() if value is not None})
        found.count += 1
        found.last = {"step": step} | {name: number(line[name]) for name in HELD_OUT if name in line}
        found.stores = _stores(line)
        if isfinite(number(line.get("mlm_loss"))):
            losses.add(number(line["mlm_loss"]), step)
    found.curves, found.best = buckets.curves(), losses.lowest
    return found


def places_of(training: Training, steps: np.ndarray) -> dict[str, np.ndarray]:
    """By kind of x, where these steps lie."""
    place_of = place_at(training)
    places = [place_of(int(step)) for step in steps]
    return {kind: np.array([place[kind] for place in places]) for kind in ("step", "tokens", "seconds")}


def place_at(training: Training) -> Any:
    """What says of a step where it lies, by kind of x."""
    curve = training.curves.get("lr") or next(iter(training.curves.values()), None)

    def place_of(step: int) -> dict[str, float]:
        if curve is None:
            return {"step": step, "tokens": nan, "seconds": nan}
        x = curve.x
        found = {kind: float(np.interp(step, x["step"], x[kind])) for kind in ("tokens", "seconds")}
        return {"step": float(step), **found}

    return place_of


def _stores(line: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    stores = line.get("stores")
    if not isinstance(stores, dict):
        return {}
    return {
        name: {key: number(figures.get(key)) for key in HELD_OUT}
        for name, figures in list(stores.items())[:MAX_TEXT]
        if isinstance(figures, dict)
    }


def _counted(value: Any) -> float:
    found = number(value)
    return found if isfinite(found) and found > 0 else 0.0
