"""The loops of a step over blocks: each walks its memory once.

`table` holds rows of `pretrain.kernels.blocks.Blocks`, and `starts` the addresses of 1-D arrays, int64 [kinds, arrays]:
of gradients, weights, and first and second moments, in this order. All are of one type of float, and numbers given with
them have that type. No two arrays may overlap: where they do a loop is right, and takes one element at a time.
"""

import numpy as np

from pretrain.compiled import array_at, compiled, compiled_sum

# gradient factor, 1 - beta1, beta2, 1 - beta2, 1 / correction1, 1 / correction2, eps: see `adam_directions`.
Coefficients = tuple[float, float, float, float, float, float, float]


@compiled
def _moved(
    gradient: float, exp_avg: float, exp_avg_sq: float, coefficients: Coefficients
) -> tuple[float, float, float]:
    """Both moments after a gradient without its factor, and Adam's direction from them."""
    factor, rate1, beta2, rate2, scale1, scale2, eps = coefficients
    value = gradient * factor
    first = exp_avg + (value - exp_avg) * rate1
    second = exp_avg_sq * beta2 + value * value * rate2
    return first, second, first * scale1 / (np.sqrt(second) * scale2 + eps)


@compiled_sum
def _plus_square(total: float, value: float) -> float:
    """In float64."""
    wide = np.float64(value)
    return total + wide * wide


@compiled
def _write_updates(
    gradient: np.ndarray,
    weight: np.ndarray,
    exp_avg: np.ndarray,
    exp_avg_sq: np.ndarray,
    coefficients: Coefficients,
    decay: float,
) -> tuple[float, float]:
    """The sums are in the same loop because they take their time while it waits for memory."""
    weights, updates = 0.0, 0.0
    for i in range(gradient.size):
        exp_avg[i], exp_avg_sq[i], direction = _moved(gradient[i], exp_avg[i], exp_avg_sq[i], coefficients)
        value = weight[i]
        update = direction + decay * value
        gradient[i] = update
        weights = _plus_square(weights, value)
        updates = _plus_square(updates, update)
    return weights, updates


@compiled
def write_updates(
    table: np.ndarray, starts: np.ndarray, coefficients: Coefficients, decays: np.ndarray, sums: np.ndarray
) -> None:
    """u = direction + decay * w, written over the gradient; the moments move on. `decays`: [arrays].

    Into `sums`, float64 [blocks, 2], go the sums of w * w and of u * u.
    """
    for number in range(len(table)):
        index, first, last = table[number]
        sums[number, 0], sums[number, 1] = _write_updates(
            array_at(starts[0, index], first, last, decays),
            array_at(starts[1, index], first, last, decays),
            array_at(starts[2, index], first, last, decays),
            array_at(starts[3, index], first, last, decays),
            coefficients,
            decays[index],
        )


@compiled
def _subtract(update: np.ndarray, weight: np.ndarray, rate: float) -> None:
    for i in range(weight.size):
        weight[i] -= rate * update[i]


@compiled
def subtract_updates(table: np.ndarray, starts: np.ndarray, rates: np.ndarray) -> None:
    """w <- w - rate * u, which lies over the gradient. `rates`: [arrays]."""
    for number in range(len(table)):
        index, first, last = table[number]
        update = array_at(starts[0, index], first, last, rates)
        _subtract(update, array_at(starts[1, index], first, last, rates), rates[index])


@compiled
def _adamw_step(
    gradient: np.ndarray,
    weight: np.ndarray,
    exp_avg: np.ndarray,
    exp_avg_sq: np.ndarray,
    coefficients: Coefficients,
    kept: float,
    rate: float,
) -> None:
    for i in range(gradient.size):
        exp_avg[i], exp_avg_sq[i], direction = _moved(gradient[i], exp_avg[i], exp_avg_sq[i], coefficients)
        weight[i] = kept * weight[i] - rate * direction


@compiled
def adamw_step(
    table: np.ndarray, starts: np.ndarray, coefficients: Coefficients, kept: np.ndarray, rate: float
) -> None:
    """w <- kept * w - rate * direction; the gradient stays. `kept`: [arrays]."""
    for number in range(len(table)):
        index, first, last = table[number]
        _adamw_step(
            array_at(starts[0, index], first, last, kept),
            array_at(starts[1, index], first, last, kept),
            array_at(starts[2, index], first, last, kept),
            array_at(starts[3, index], first, last, kept),
            coefficients,
            kept[index],
            rate,
        )
