"""A step's passes over memory: compiled and in blocks on the CPU, torch's own operations on other devices.

LAMB needs two, with a sum over all ranks between them: `write_updates` and `subtract_updates`. AdamW needs one.
Where memory sets the pace, the count of walks is the time: LAMB moves 40 bytes for each weight and AdamW 28.
"""

import numpy as np
import torch

from pretrain import blocks
from pretrain.blocks import Block
from pretrain.optim import kernels
from pretrain.optim.moments import AdamOptions, LocalSlices, adam_directions


def write_updates(local: LocalSlices, options: AdamOptions, step: int) -> torch.Tensor:
    """Updates the moments and writes u = direction + decay * w over the gradients.

    Returns float64 [2, num_parameters]: this rank's shares of every parameter's |w|^2 and |u|^2.
    """
    if not local.on_cpu:
        updates = adam_directions(local, options, step)
        for weight, update, decay in zip(local.weights, updates, local.decays, strict=True):
            if decay:
                update.add_(weight, alpha=decay)
        partial = local.layout.partial_squared_norms
        return torch.stack([partial(local.weights, local.slices), partial(updates, local.slices)])
    gradients, weights, first, second = _arrays(local)
    cut = blocks.cut(gradients)
    sums = np.zeros((2, len(cut)))
    numbers = [_numbers(array, local, options, step) for array in gradients]
    decays = [array.dtype.type(decay) for array, decay in zip(gradients, local.decays, strict=True)]

    def work(block: Block) -> None:
        at, index = slice(block.first, block.last), block.array
        sums[:, block.number] = kernels.write_updates(
            gradients[index][at],
            weights[index][at],
            first[index][at],
            second[index][at],
            numbers[index],
            decays[index],
        )

    blocks.for_each(cut, work)
    owners = np.array([piece.parameter for piece in local.slices], dtype=np.intp)
    by_slice = [blocks.sums_by_array(cut, row, len(gradients)) for row in sums]
    by_parameter = [np.bincount(owners, row, len(local.layout.parameters)) for row in by_slice]
    return torch.from_numpy(np.stack(by_parameter))


def subtract_updates(local: LocalSlices, rates: torch.Tensor) -> None:
    """w <- w - rate * u, by each parameter's rate; `rates` is [num_parameters], u lies over the gradients."""
    if not local.on_cpu:
        rates = rates.float()
        for weight, update, piece in zip(local.weights, local.raw_gradients, local.slices, strict=True):
            weight.addcmul_(update, rates[piece.parameter], value=-1)
        return
    updates, weights = blocks.arrays_of(local.raw_gradients), blocks.arrays_of(local.weights)
    of_parameter = rates.tolist()
    own = [
        array.dtype.type(of_parameter[piece.parameter])
        for array, piece in zip(weights, local.slices, strict=True)
    ]

    def work(block: Block) -> None:
        at = slice(block.first, block.last)
        kernels.subtract(weights[block.array][at], updates[block.array][at], own[block.array])

    blocks.for_each(blocks.cut(weights), work)


def step_by_directions(local: LocalSlices, options: AdamOptions, lr: float, step: int) -> None:
    """w <- (1 - lr * decay) * w - lr * direction."""
    if not local.on_cpu:
        directions = adam_directions(local, options, step)
        for weight, direction, decay in zip(local.weights, directions, local.decays, strict=True):
            if decay:
                weight.mul_(1 - lr * decay)
            weight.add_(direction, alpha=-lr)
        return
    gradients, weights, first, second = _arrays(local)
    numbers = [_numbers(array, local, options, step) for array in gradients]
    kept = [array.dtype.type(1 - lr * decay) for array, decay in zip(gradients, local.decays, strict=True)]

    def work(block: Block) -> None:
        at, index = slice(block.first, block.last), block.array
        kernels.adamw_step(
            gradients[index][at],
            weights[index][at],
            first[index][at],
            second[index][at],
            numbers[index],
            kept[index],
            gradients[index].dtype.type(lr),
        )

    blocks.for_each(blocks.cut(gradients), work)


def _arrays(local: LocalSlices) -> tuple[list[np.ndarray], ...]:
    kinds = (local.raw_gradients, local.weights, local.exp_avg, local.exp_avg_sq)
    return tuple(blocks.arrays_of(tensors) for tensors in kinds)


def _numbers(array: np.ndarray, local: LocalSlices, options: AdamOptions, step: int) -> kernels.Coefficients:
    """In the arrays' own type: a loop over float32 with a float64 in it would be one over float64."""
    correction1, correction2 = options.corrections(step)
    numbers = (
        local.gradient_factor,
        1 - options.beta1,
        options.beta2,
        1 - options.beta2,
        1 / correction1,
        1 / correction2,
        options.eps,
    )
    return tuple(array.dtype.type(number) for number in numbers)
