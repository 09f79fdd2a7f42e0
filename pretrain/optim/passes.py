"""A step's passes over memory: compiled and in blocks on the CPU, torch's own operations on other devices.

LAMB needs two, with a sum over all ranks between them: `write_updates` and `subtract_updates`. AdamW needs one.
Where memory sets the pace, the count of walks is the time: LAMB moves 40 bytes for each weight and AdamW 28.
"""

import numpy as np
import torch

from pretrain import blocks
from pretrain.optim import kernels
from pretrain.optim.moments import AdamOptions, LocalSlices, adam_directions


def write_updates(local: LocalSlices, options: AdamOptions, step: int) -> torch.Tensor:
    """Updates the moments and writes u = direction + decay * w over the gradients.

    Returns float64 [2, num_parameters]: this rank's shares of every parameter's |w|^2 and |u|^2.
    """
    if not local.on_cpu:
        updates = adam_directions(local, options, step)
        for weight, update, decay in zip(local.weights.views, updates, local.decays, strict=True):
            if decay:
                update.add_(weight, alpha=decay)
        partial = local.layout.partial_squared_norms
        return torch.stack([partial(local.weights), partial(local.raw_gradients)])
    cut, starts, dtype = local.table.blocks, local.addresses, blocks.numpy_dtype(local.layout.dtype)
    numbers = _numbers(dtype, local, options, step)
    decays, sums = np.array(local.decays, dtype), np.zeros((len(cut), 2))

    def work(first: int, last: int) -> None:
        kernels.write_updates(cut.table[first:last], starts, numbers, decays, sums[first:last])

    blocks.for_each(cut, work)
    by_slice = np.stack([cut.sums_by_array(row) for row in sums.T])
    return local.layout.by_parameter(local.table, torch.from_numpy(by_slice))


def subtract_updates(local: LocalSlices, rates: torch.Tensor) -> None:
    """w <- w - rate * u, by each parameter's rate; `rates` is [num_parameters], u lies over the gradients."""
    if not local.on_cpu:
        rates = rates.float()
        views = zip(local.weights.views, local.raw_gradients.views, local.slices, strict=True)
        for weight, update, piece in views:
            weight.addcmul_(update, rates[piece.parameter], value=-1)
        return
    cut, starts = local.table.blocks, local.addresses
    own = rates[local.table.owners].to(local.layout.dtype).numpy()

    def work(first: int, last: int) -> None:
        kernels.subtract_updates(cut.table[first:last], starts, own)

    blocks.for_each(cut, work)


def step_by_directions(local: LocalSlices, options: AdamOptions, lr: float, step: int) -> None:
    """w <- (1 - lr * decay) * w - lr * direction."""
    if not local.on_cpu:
        directions = adam_directions(local, options, step)
        for weight, direction, decay in zip(local.weights.views, directions, local.decays, strict=True):
            if decay:
                weight.mul_(1 - lr * decay)
            weight.add_(direction, alpha=-lr)
        return
    cut, starts, dtype = local.table.blocks, local.addresses, blocks.numpy_dtype(local.layout.dtype)
    numbers = _numbers(dtype, local, options, step)
    kept, rate = np.array([1 - lr * decay for decay in local.decays], dtype), dtype.type(lr)

    def work(first: int, last: int) -> None:
        kernels.adamw_step(cut.table[first:last], starts, numbers, kept, rate)

    blocks.for_each(cut, work)


def _numbers(dtype: np.dtype, local: LocalSlices, options: AdamOptions, step: int) -> kernels.Coefficients:
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
    return tuple(dtype.type(number) for number in numbers)
