"""Trust ratios from TensorBoard's files, where the run logged them (`log.parameters_every`)."""

from collections import defaultdict
from pathlib import Path
from statistics import fmean

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

from pretrain.report.curves import NOWHERE, Curve, number
from pretrain.report.training import Training, places_of

_PREFIX = "trust_ratio/"


def read_trust_ratios(board: Path, training: Training, points: int) -> Curve | None:
    """By step the mean of all parameters' ratios as `middle`, the smallest and the largest as `low` and `high`.

    Of a long run so many steps are drawn at random, the last among them. None where nothing was logged, or what lies
    there cannot be read.
    """
    if not board.is_dir():
        return None
    accumulator = EventAccumulator(str(board), size_guidance={SCALARS: points})
    try:
        accumulator.Reload()
    except Exception:  # TensorBoard's reader has no error of its own for a file that is damaged
        return None
    by_step: dict[int, list[float]] = defaultdict(list)
    for tag in accumulator.Tags()[SCALARS]:
        if tag.startswith(_PREFIX):
            for event in accumulator.Scalars(tag):
                by_step[event.step].append(number(event.value))
    steps = np.array(sorted(step for step in by_step if 0 < step <= training.last_step)[-points:])
    if not len(steps):
        return None
    rows = [[value for value in by_step[step] if np.isfinite(value)] or [np.nan] for step in steps.tolist()]
    low, high = np.array([min(row) for row in rows]), np.array([max(row) for row in rows])
    middle = np.array([fmean(row) for row in rows])
    finite = [
        (int(step), float(value)) for step, value in zip(steps, middle, strict=True) if np.isfinite(value)
    ]
    ends = (finite[0], finite[-1]) if finite else (NOWHERE, NOWHERE)
    return Curve(places_of(training, steps), steps, low, middle, high, np.isnan(middle), *ends)
