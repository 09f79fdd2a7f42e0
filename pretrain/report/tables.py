"""The tables of the page: what the runs are, what data they saw, and what came of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any

import numpy as np

from pretrain.data.store import TokenStore
from pretrain.errors import PretrainError
from pretrain.report.about import About, described, last_written
from pretrain.report.axes import NOTHING, duration, figure
from pretrain.report.curves import Curve, number
from pretrain.report.happened import Event
from pretrain.report.ranks import Ranks, figures_of
from pretrain.report.training import Extremes, HeldOut, Training

MAX_STORES = 16


@dataclass(frozen=True)
class RunFound:
    """All that was read of one run. `notes`: what could not be, in sentences."""

    about: About
    training: Training
    held_out: HeldOut
    ratios: Curve | None
    ranks: Ranks
    events: Sequence[Event]
    notes: Sequence[str]

    @property
    def planned_steps(self) -> float:
        planned = self.about.at("schedule", "total_steps") or self.about.at("recipe", "train", "steps")
        return number(planned)


Row = tuple[str, list[str]]


def runs_table(runs: Sequence[RunFound]) -> list[Row]:
    """Property and each run's value, of those that any run has."""
    properties = [
        {
            "folder": str(run.about.folder.path),
            "state": _state(run),
            "training time": _training_time(run),
            "metrics last written": last_written(run.about.folder),
            **described(run.about),
        }
        for run in runs
    ]
    names = dict.fromkeys(name for each in properties for name in each)
    return [(name, [each.get(name, NOTHING) for each in properties]) for name in names]


def data_table(runs: Sequence[RunFound]) -> list[Row]:
    """What the steps that are in metrics.jsonl were fed with."""
    return _table(
        runs,
        {
            "steps": lambda run: figure(run.training.steps),
            "tokens": lambda run: figure(run.training.tokens),
            "the same over the stores' training text": _passes,
            "samples": lambda run: figure(run.training.samples),
            "rows": lambda run: figure(run.training.rows),
            "tokens per step": lambda run: figure(_ratio(run.training.tokens, run.training.steps)),
            "samples per row": lambda run: figure(_ratio(run.training.samples, run.training.rows)),
            "real tokens among all positions": _real_share,
            "epochs seen": _epochs,
            "selected for MLM": _masked,
            "cursor of the last step": lambda run: ", ".join(map(str, run.training.cursor[:60])) or NOTHING,
        },
    )


def final_table(runs: Sequence[RunFound]) -> list[Row]:
    """What the runs came to."""
    rows = _table(
        runs,
        {
            "last step": lambda run: figure(run.training.last_step) if run.training.steps else NOTHING,
            "training loss, median of the last steps": lambda run: _front(run, "loss"),
            "MLM loss, the same": lambda run: _front(run, "mlm_loss"),
            "NSP loss, the same": lambda run: _front(run, "nsp_loss"),
            "lowest training loss": lambda run: _place(_extremes(run, "loss").lowest),
            "held out: after step": lambda run: figure(run.held_out.last.get("step")),
            "held out: unigram entropy": lambda run: figure(run.held_out.last.get("unigram_entropy")),
            "held out: loss on [MASK]": lambda run: figure(run.held_out.last.get("mask_only_loss")),
            "held out: the same, context shuffled": lambda run: figure(
                run.held_out.last.get("shuffled_mask_only_loss")
            ),
            "held out: MLM loss": lambda run: figure(run.held_out.last.get("mlm_loss")),
            "held out: MLM accuracy": lambda run: figure(run.held_out.last.get("mlm_accuracy")),
            "held out: NSP accuracy (lower 95% bound)": _nsp_accuracy,
            "best validation (MLM loss)": lambda run: _place(run.held_out.best),
            "highest gradient norm": lambda run: _place(_extremes(run, "grad_norm").highest),
            "tokens per second, median": lambda run: _median(run, "tokens_per_second"),
            "MFU, median": lambda run: _median(run, "mfu"),
            "gradient noise scale, last": lambda run: _place(_extremes(run, "noise_scale").last),
            "loss scale, last": lambda run: figure(_extremes(run, "loss_scale").last[0]),
            "skipped steps": _skipped,
            "steps with a figure not finite": lambda run: figure(run.training.not_finite),
        },
    )
    return [row for row in rows if any(value != NOTHING for value in row[1])] + _stores(runs)


def ranks_table(runs: Sequence[RunFound]) -> list[Row]:
    """The ranks of each run beside each other; empty where no run has compared them."""
    found = [figures_of(run.ranks) for run in runs]
    names = dict.fromkeys(name for each in found for name in each)
    return [(name, [each.get(name, NOTHING) for each in found]) for name in names]


def _table(runs: Sequence[RunFound], figures: dict[str, Callable[[RunFound], str]]) -> list[Row]:
    return [(name, [of(run) for run in runs]) for name, of in figures.items()]


def _stores(runs: Sequence[RunFound]) -> list[Row]:
    """Of blends, the last validation of each store."""
    names = list(dict.fromkeys(name for run in runs for name in run.held_out.stores))[:MAX_STORES]
    return [
        (
            f"held out: loss on [MASK], {name[:200]}",
            [figure(run.held_out.stores.get(name, {}).get("mask_only_loss")) for run in runs],
        )
        for name in names
    ]


def _state(run: RunFound) -> str:
    if run.about.finished_steps is not None:
        return f"finished after {run.about.finished_steps:,} steps"
    if not run.training.steps:
        return "no step done yet"
    of = f" of {run.planned_steps:,.0f}" if isfinite(run.planned_steps) else ""
    return f"not finished: step {run.training.last_step:,}{of}"


def _training_time(run: RunFound) -> str:
    starts = sum(event.kind in ("start", "restart") for event in run.events)
    in_starts = f", in {starts} starts" if starts > 1 else ""
    return f"{duration(run.training.seconds)} in steps{in_starts}" if run.training.steps else NOTHING


def _real_share(run: RunFound) -> str:
    positions = run.training.rows * number(run.about.at("recipe", "data", "seq_len"))
    share = _ratio(run.training.tokens, positions)
    return f"{share:.2%}" if isfinite(share) else NOTHING


def _epochs(run: RunFound) -> str:
    """The cursor's: of a blend, each store's."""
    cursor = run.training.cursor
    epochs = cursor[1::3] if len(cursor) > 3 else cursor[:1]
    return (
        ", ".join(f"{epoch:,} whole ones, and number {epoch + 1:,} in part" for epoch in epochs[:MAX_STORES])
        or NOTHING
    )


def _passes(run: RunFound) -> str:
    """Tokens over those of the training text, where the stores are there."""
    sizes = [_store_tokens(name, fingerprint) for name, fingerprint in _named_stores(run.about)]
    passes = _ratio(run.training.tokens, sum(sizes)) if sizes else nan
    return (
        f"{figure(passes, 3)} times its {figure(sum(sizes))} tokens"
        if isfinite(passes)
        else "not known: no store there"
    )


def _named_stores(about: About) -> list[tuple[str, Any]]:
    blend = about.at("blend")
    if isinstance(blend, list) and blend:
        found = [(each.get("name"), each.get("fingerprint")) for each in blend if isinstance(each, dict)]
    else:
        found = [(about.at("store"), about.at("store_fingerprint"))]
    return [(name, fingerprint) for name, fingerprint in found[:MAX_STORES] if isinstance(name, str)]


def _store_tokens(name: str, fingerprint: Any) -> float:
    """Of the training split; NaN where the store is not there or is another one now."""
    try:
        store = TokenStore.open(name)
        return float(store.split("train").num_tokens) if store.fingerprint == fingerprint else nan
    except (PretrainError, OSError, ValueError):
        return nan


def _masked(run: RunFound) -> str:
    share = number(run.about.at("recipe", "data", "mask_probability"))
    return f"{share:.1%} of each sample's tokens (as configured)" if isfinite(share) else NOTHING


def _skipped(run: RunFound) -> str:
    skipped = run.training.skipped
    if not skipped:
        return "0"
    if len(skipped) == 1:
        return f"{sum(skipped.values()):,} ({next(iter(skipped))})"
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in skipped.most_common(8))
    return f"{sum(skipped.values()):,} ({reasons})"


def _nsp_accuracy(run: RunFound) -> str:
    accuracy, low = (run.held_out.last.get(name) for name in ("nsp_accuracy", "nsp_accuracy_low"))
    return figure(accuracy) if low is None or not isfinite(low) else f"{figure(accuracy)} ({figure(low)})"


def _front(run: RunFound, name: str) -> str:
    curve = run.training.curves.get(name)
    if curve is None:
        return NOTHING
    values = curve.middle[np.isfinite(curve.middle)][-max(5, len(curve) // 25) :]
    return figure(float(np.median(values))) if len(values) else NOTHING


def _median(run: RunFound, name: str) -> str:
    curve = run.training.curves.get(name)
    values = np.zeros(0) if curve is None else curve.middle[np.isfinite(curve.middle)]
    return figure(float(np.median(values)), 3) if len(values) else NOTHING


def _extremes(run: RunFound, name: str) -> Extremes:
    return run.training.extremes.get(name, Extremes())


def _place(value_at: tuple[float, int]) -> str:
    value, step = value_at
    return f"{figure(value)} (step {step:,})" if isfinite(value) else NOTHING


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 and isfinite(whole) else nan
