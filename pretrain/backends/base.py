"""What the loop, the checkpoint and the evaluation know of an engine."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, Self

import torch

from pretrain.config import EngineConfig
from pretrain.model.encoder import ModelInput, PretrainingModel
from pretrain.optim import LossScaleOptions, LossScaler, ShardedOptimizer, Skip
from pretrain.sharding import ShardLayout

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class EngineOptions:
    """What a backend is built from besides the model and the optimizer."""

    config: EngineConfig
    precision: Precision
    micro_batch: int  # rows per rank and forward pass
    accumulation: int  # micro-batches per step
    world_size: int
    device: torch.device
    compile: bool = False  # the encoder layers, once the engine has wrapped them


class LossWeights(NamedTuple):
    """Weights of the summed losses: one over the global count of masked tokens, and of sentence pairs."""

    mlm: float
    nsp: float

    @classmethod
    def of_means(cls, num_masked: int, num_pairs: int) -> Self:
        """The sum of a mean over so many masked tokens and one over so many pairs, if there are any."""
        return cls(1 / num_masked, 1 / num_pairs if num_pairs else 0.0)


class StepResult(NamedTuple):
    """Of one optimizer step: the global gradient norm before clipping, why nothing was updated if so, and the loss
    scale that it had (1 without fp16)."""

    grad_norm: float
    skip: Skip | None
    loss_scale: float


class Backend(Protocol):
    """An engine with its model and optimizer. Every method is collective: all ranks call it alike."""

    @property
    def model(self) -> PretrainingModel: ...

    @property
    def layout(self) -> ShardLayout: ...

    @property
    def optimizer(self) -> ShardedOptimizer: ...

    @property
    def loss_scaler(self) -> LossScaler: ...

    def train_micro_batch(self, batch: ModelInput, weights: LossWeights, *, last: bool) -> torch.Tensor:
        """Forward and backward; returns the (MLM, NSP) loss sums of this rank, [2] fp32.

        `last` closes the accumulation; the gradient is then the sum over ranks and micro-batches.
        """
        ...

    def step(self, lr: float) -> StepResult:
        """One optimizer step on the accumulated gradient, which is cleared."""
        ...

    def measure_gradient(self) -> float:
        """The global norm of the accumulated gradient, which is cleared; not finite where it overflowed.

        Nothing else changes: no weight, moment, count or loss scale.
        """
        ...

    def score(self, batch: ModelInput) -> tuple[torch.Tensor, ...]:
        """Per position, without gradients or dropout: see `PretrainingModel.score`."""
        ...

    def refresh_weights(self) -> None:
        """Makes the weights that compute equal to the master weights, after these were written from outside."""
        ...


def make_loss_scaler(options: EngineOptions) -> LossScaler:
    """What the `fp16` block says under fp16; a scale of 1 otherwise."""
    if options.precision != "fp16":
        return LossScaler()
    block = options.config.fp16
    return LossScaler(
        LossScaleOptions(
            initial_scale=block.loss_scale or 2.0**block.initial_scale_power,
            dynamic=block.loss_scale == 0,
            window=block.loss_scale_window,
            hysteresis=block.hysteresis,
            refill_hysteresis=block.consecutive_hysteresis,
            min_scale=block.min_loss_scale,
        )
    )


def finished_step(scaler: LossScaler, grad_norm: float, skip: Skip | None) -> StepResult:
    """Tells the scaler of a step and returns what the loop is told.

    What is not finite is an overflow where there is a loss scale. A spike is finite: for the scale a good step.
    """
    scale, bad = scaler.scale, skip is not None and skip.reason == "not finite"
    scaler.update(overflow=bad)
    if bad and scaler.is_needed:
        detail = f"the gradient norm is {grad_norm} at loss scale {scale:g}"
        skip = Skip("overflow", detail, scaler.lost_steps)
    return StepResult(grad_norm, skip, scale)
