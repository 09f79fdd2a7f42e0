"""A step's passes (`pretrain.optim.passes.Passes`) on the CPU: compiled loops over blocks, by torch's threads."""

import numpy as np
import torch

from pretrain.kernels import blocks
from pretrain.optim import kernels
from pretrain.optim.moments import AdamOptions, LocalSlices


def write_updates(local: LocalSlices, options: AdamOptions, step: int) -> torch.Tensor:
    cut, starts, dtype = local.table.blocks, local.addresses, blocks.numpy_dtype(local.layout.dtype)
    numbers = _numbers(dtype, local, options, step)
    decays, sums = np.array(local.decays, dtype), np.zeros((len(cut), 2))

    def work(first: int, last: int) -> None:
        kernels.write_updates(cut.table[first:last], starts, numbers, decays, sums[first:last])

    blocks.for_each(cut, work)
    by_slice = np.stack([cut.sums_by_array(row) for row in sums.T])
    return local.table.by_parameter(torch.from_numpy(by_slice), len(local.layout.parameters))


def subtract_updates(local: LocalSlices, rates: torch.Tensor) -> None:
    cut, starts = local.table.blocks, local.addresses
    own = rates.to(local.layout.dtype).numpy()[local.table.owners]

    def work(first: int, last: int) -> None:
        kernels.subtract_updates(cut.table[first:last], starts, own)

    blocks.for_each(cut, work)


def step_by_directions(local: LocalSlices, options: AdamOptions, lr: float, step: int) -> None:
    cut, starts, dtype = local.table.blocks, local.addresses, blocks.numpy_dtype(local.layout.dtype)
    numbers = _numbers(dtype, local, options, step)
    kept, rate = np.array([1 - lr * decay for decay in local.decays], dtype), dtype.type(lr)

    def work(first: int, last: int) -> None:
        kernels.adamw_step(cut.table[first:last], starts, numbers, kept, rate)

    blocks.for_each(cut, work)


def _numbers(dtype: np.dtype, local: LocalSlices, options: AdamOptions, step: int) -> kernels.Coefficients:
    """In the arrays' own type: a loop over float32 with a float64 in it would be one over float64."""
    return tuple(dtype.type(number) for number in options.coefficients(local.gradient_factor, step))
