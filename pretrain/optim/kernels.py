"""The loops of a step over one block: each walks its memory once.

A block is taken in runs that stay in the processor's first cache, and all that happens to a run is done before the
next. All arrays are 1-D, of one length and one type of float; numbers given with them have that type.
"""

import numpy as np

from pretrain.blocks import sum_of_squares
from pretrain.compiled import compiled

_RUN = 1024

# gradient factor, 1 - beta1, beta2, 1 - beta2, 1 / correction1, 1 / correction2, eps: see `adam_directions`.
Coefficients = tuple[float, float, float, float, float, float, float]


@compiled
def _directions(
    gradient: np.ndarray,
    exp_avg: np.ndarray,
    exp_avg_sq: np.ndarray,
    coefficients: Coefficients,
    direction: np.ndarray,
) -> None:
    """Multiplies the gradient by its factor, updates the moments and writes Adam's direction.

    No two arrays may overlap: where they do the loop is right, and takes one element at a time.
    """
    factor, rate1, beta2, rate2, scale1, scale2, eps = coefficients
    for i in range(gradient.size):
        value = gradient[i] * factor
        first = exp_avg[i] + (value - exp_avg[i]) * rate1
        second = exp_avg_sq[i] * beta2 + value * value * rate2
        exp_avg[i] = first
        exp_avg_sq[i] = second
        direction[i] = first * scale1 / (np.sqrt(second) * scale2 + eps)


@compiled
def write_updates(
    gradient: np.ndarray,
    weight: np.ndarray,
    exp_avg: np.ndarray,
    exp_avg_sq: np.ndarray,
    coefficients: Coefficients,
    decay: float,
) -> tuple[float, float]:
    """u = direction + decay * w, written over the gradient; (sum of w * w, sum of u * u) in float64."""
    weights, updates = 0.0, 0.0
    directions = np.empty(_RUN, gradient.dtype)
    for first in range(0, gradient.size, _RUN):
        end = min(first + _RUN, gradient.size)
        update, values, direction = gradient[first:end], weight[first:end], directions[: end - first]
        _directions(update, exp_avg[first:end], exp_avg_sq[first:end], coefficients, direction)
        for i in range(update.size):
            update[i] = direction[i] + decay * values[i]
        weights += sum_of_squares(values)
        updates += sum_of_squares(update)
    return weights, updates


@compiled
def subtract(weight: np.ndarray, update: np.ndarray, rate: float) -> None:
    """w <- w - rate * u."""
    for i in range(weight.size):
        weight[i] -= rate * update[i]


@compiled
def adamw_step(
    gradient: np.ndarray,
    weight: np.ndarray,
    exp_avg: np.ndarray,
    exp_avg_sq: np.ndarray,
    coefficients: Coefficients,
    kept: float,
    rate: float,
) -> None:
    """w <- kept * w - rate * direction, in one walk; the gradient stays."""
    directions = np.empty(_RUN, gradient.dtype)
    for first in range(0, gradient.size, _RUN):
        end = min(first + _RUN, gradient.size)
        direction, values = directions[: end - first], weight[first:end]
        _directions(gradient[first:end], exp_avg[first:end], exp_avg_sq[first:end], coefficients, direction)
        for i in range(values.size):
            values[i] = kept * values[i] - rate * direction[i]
