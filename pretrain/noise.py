"""Measuring the gradient noise scale while training: one more pass over one micro-batch, every so many steps.

1. before a step that is due, one of its micro-batches on one rank is drawn: the small batch;
2. all ranks run their micro-batch of that index as a step of its own, with a loss that has weight 0 on the others: the
   gradient is that of the small batch, by its own counts of masked tokens and pairs, under every engine and stage;
3. its norm is taken and the gradient is thrown away; then the step itself runs as always, over its whole batch;
4. the norm of the step and that of the small batch are one measurement (`pretrain.optim.noise_scale`).

The sums that an engine keeps over micro-batches are no measure of parts: some engines hold them unreduced until the
last one, each at another place. A pass of its own takes the same way through each of them, and works for a step of one
micro-batch on each of several ranks too. The smaller the small batch, the less one measurement scatters, so it is the
smallest that there is; it is drawn anew each time because rows of a step may follow an order.
"""

from dataclasses import dataclass
from math import isfinite
from typing import NamedTuple

import torch

from pretrain.backends.base import Backend, LossWeights, StepResult
from pretrain.data.loader import StepBatches
from pretrain.errors import UsageError
from pretrain.optim import NoiseScale, noise_estimate
from pretrain.rng import key


class SmallBatch(NamedTuple):
    """The measured part of a step: gradient norm, and rows."""

    grad_norm: float
    rows: int


def check_measurable(fewest_rows: int, micro_batch: int) -> None:
    """Raises UsageError where the smallest global batch of a run is one micro-batch, which has no smaller part."""
    if fewest_rows <= micro_batch:
        raise UsageError(
            f"log.noise_every compares the gradient of a micro-batch with that of the global batch, but a global batch "
            f"of {fewest_rows} rows is one micro-batch: lower train.micro_batch or leave log.noise_every out."
        )


@dataclass(frozen=True)
class NoiseProbe:
    """Measures every `every` steps, into `scale`; 0: never."""

    scale: NoiseScale
    every: int
    seed: int
    rank: int
    world_size: int
    device: torch.device

    def measure(self, backend: Backend, batches: StepBatches, step: int) -> SmallBatch | None:
        """Of the step that comes next, before its first micro-batch; None where none is due. Collective."""
        if not self.every or step % self.every:
            return None
        parts = len(batches.micro_batches) * self.world_size
        index, owner = divmod(key(self.seed, "noise", step) % parts, self.world_size)
        batch = batches.micro_batches[index]
        # Of the size that the part has within its step, so that fp16 has the range for it that it has there.
        own = LossWeights.of_means(batch.num_masked * parts, batch.num_pairs * parts)
        torch.manual_seed(key(self.seed, "dropout", step, index, self.rank))
        weights = own if owner == self.rank else LossWeights(0.0, 0.0)
        backend.train_micro_batch(batch.to(self.device), weights, last=True)
        return SmallBatch(backend.measure_gradient() * parts, batches.num_rows // parts)

    def figures(
        self, small: SmallBatch | None, result: StepResult, batches: StepBatches
    ) -> dict[str, float | int | None] | None:
        """What a step's record says of a measurement, which is counted; None without one, or where the step was
        skipped or the norm is not finite: such a gradient is no measure of the others."""
        if small is None or result.skip is not None or not isfinite(small.grad_norm):
            return None
        estimate = noise_estimate(small.grad_norm, small.rows, result.grad_norm, batches.num_rows)
        self.scale.update(estimate)
        rows = self.scale.state.noise_scale
        return {
            "noise_scale": rows,
            "noise_scale_samples": None if rows is None else rows * batches.num_samples / batches.num_rows,
            "noise_trace": estimate.trace,
            "noise_squared_gradient": estimate.squared_gradient,
            "noise_small_batch": small.rows,
            "noise_small_grad_norm": small.grad_norm,
        }
