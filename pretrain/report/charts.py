"""Which charts there are, and what stands under each in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pretrain.report.axes import figure
from pretrain.report.curves import Curve
from pretrain.report.ranks import Ranks
from pretrain.report.training import HeldOut, Training

# From so many times the lowest value on, equal factors get equal heights.
LOG_FROM_RATIO = 30.0
OF_RANKS = "ranks"  # the source whose charts are a section of their own


@dataclass(frozen=True)
class Kind:
    """How a figure is drawn. `noisy`: raw points faint and a running median in front; `scale`: linear, or log where it
    helps; `from_zero`: the axis begins there; `constant`: where this is the only value, no chart is made."""

    key: str
    title: str
    unit: str
    noisy: bool = False
    may_be_log: bool = False
    from_zero: bool = False
    constant: float | None = None
    level: str | None = None  # another figure of the same kind, drawn as a thin line
    source: str = "training"

    @property
    def level_title(self) -> str:
        return (self.level or "").replace("_", " ")


KINDS = (
    Kind("loss", "Training loss", "nats", noisy=True, may_be_log=True),
    Kind("mlm_loss", "MLM loss", "nats per masked token", noisy=True, may_be_log=True),
    Kind("nsp_loss", "NSP loss", "nats per pair", noisy=True, may_be_log=True, constant=0.0),
    Kind(
        "mask_only_loss",
        "Held-out loss on [MASK]",
        "nats per token",
        level="unigram_entropy",
        source="held_out",
    ),
    Kind(
        "mlm_loss", "Held-out MLM loss", "nats per masked token", level="unigram_entropy", source="held_out"
    ),
    Kind("mlm_accuracy", "Held-out MLM accuracy", "share of positions", source="held_out"),
    Kind("nsp_accuracy", "Held-out NSP accuracy", "share of pairs", source="held_out"),
    Kind("lr", "Learning rate", "", from_zero=True),
    Kind("grad_norm", "Gradient norm", "L2, before clipping", noisy=True, may_be_log=True),
    Kind("tokens_per_second", "Throughput", "tokens per second", noisy=True, from_zero=True),
    Kind("mfu", "Model FLOPs utilization", "share of the devices' peak", noisy=True, from_zero=True),
    Kind("loss_scale", "Loss scale", "", may_be_log=True, constant=1.0),
    Kind("global_batch", "Global batch", "rows per step", from_zero=True),
    Kind("noise_scale", "Gradient noise scale", "rows", may_be_log=True),
    Kind("trust_ratio", "Trust ratios", "mean over parameters", may_be_log=True, source="ratios"),
    Kind(
        "data_wait",
        "Data wait",
        "largest share of a step over ranks",
        noisy=True,
        from_zero=True,
        source=OF_RANKS,
    ),
    Kind(
        "to_median",
        "Slowest rank",
        "times the median rank's own time",
        noisy=True,
        from_zero=True,
        source=OF_RANKS,
    ),
)


@dataclass(frozen=True)
class Series:
    """Of one run in one chart: what is drawn, [n] each. `front`: the line; the curve's low and high: around it."""

    run: int
    curve: Curve
    front: np.ndarray
    level: Curve | None


@dataclass(frozen=True)
class Chart:
    """`words`: by run, the curve in a sentence."""

    kind: Kind
    series: Sequence[Series]
    words: Sequence[tuple[int, str]]

    @property
    def identifier(self) -> str:
        return f"{self.kind.source}-{self.kind.key}".replace("_", "-")


def charts_of(
    trainings: Sequence[Training],
    held_out: Sequence[HeldOut],
    ratios: Sequence[Curve | None],
    ranks: Sequence[Ranks],
) -> list[Chart]:
    """All that any run has a curve for."""
    sources: Mapping[str, list[Mapping[str, Curve]]] = {
        "training": [training.curves for training in trainings],
        "held_out": [found.curves for found in held_out],
        OF_RANKS: [found.curves for found in ranks],
        "ratios": [{} if curve is None else {"trust_ratio": curve} for curve in ratios],
    }
    found = []
    for kind in KINDS:
        series = [
            _series(kind, run, curves)
            for run, curves in enumerate(sources[kind.source])
            if kind.key in curves
        ]
        if series and not _says_nothing(kind, series):
            found.append(Chart(kind, series, [(each.run, _words(kind, each)) for each in series]))
    return found


def _series(kind: Kind, run: int, curves: Mapping[str, Curve]) -> Series:
    curve = curves[kind.key]
    level = None if kind.level is None else curves.get(kind.level)
    return Series(run, curve, curve.front() if kind.noisy else curve.middle, level)


def _says_nothing(kind: Kind, series: Sequence[Series]) -> bool:
    """Whether the whole chart would be one value: the batch that never changes, the loss scale of fp32."""
    values = np.concatenate([np.r_[each.curve.low, each.curve.high] for each in series])
    values = values[np.isfinite(values)]
    if any(each.curve.missing.any() for each in series):
        return False
    if kind.key == "global_batch":
        return all(len(set(each.curve.middle.tolist())) <= 1 for each in series)
    return bool(kind.constant is not None and len(values) and np.all(values == kind.constant))


def _words(kind: Kind, series: Series) -> str:
    """The curve for those who cannot see it."""
    curve = series.curve
    (first, begin), (last, end) = curve.begin, curve.end
    if first < 0:
        return "no finite value"
    lowest, highest = np.nanargmin(curve.low), np.nanargmax(curve.high)
    parts = [f"{figure(begin)} at step {first:,}"]
    if last > first:
        parts = [
            f"from {parts[0]} to {figure(end)} at step {last:,}",
            f"lowest {figure(curve.low[lowest])} {_at(curve, lowest)}",
            f"highest {figure(curve.high[highest])} {_at(curve, highest)}",
        ]
    if series.level is not None and np.isfinite(series.level.middle).any():
        levels = series.level.middle[np.isfinite(series.level.middle)]
        parts.append(f"{kind.level_title} {figure(levels[-1])}")
    if curve.missing.any():
        parts.append(f"not finite at {_places(curve)}")
    return "; ".join(parts)


def _at(curve: Curve, index: np.intp) -> str:
    first, last = curve.first[index], curve.x["step"][index]
    return f"at step {last:,.0f}" if first == last else f"within steps {first:,.0f} to {last:,.0f}"


def _places(curve: Curve) -> str:
    places = np.flatnonzero(curve.missing)
    shown = ", ".join(_at(curve, index).split(" ", 1)[1] for index in places[:3])
    return f"{shown}{f' and {len(places) - 3} more places' if len(places) > 3 else ''}"
