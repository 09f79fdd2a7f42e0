"""What the loop, the checkpoint and the evaluation know of an engine."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch

from pretrain.config import EngineConfig
from pretrain.model.encoder import ModelInput
from pretrain.optim import ShardedOptimizer
from pretrain.sharding import ShardLayout

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class EngineOptions:
    """What a backend is built from besides the model and the optimizer."""

    config: EngineConfig
    precision: Precision
    micro_batch: int  # rows per rank and forward pass
    accumulation: int  # micro-batches per step
    world_size: int
    device: torch.device


class LossWeights(NamedTuple):
    """Weights of the summed losses: one over the global count of masked tokens, and of sentence pairs."""

    mlm: float
    nsp: float


class StepResult(NamedTuple):
    """Of one optimizer step: the global gradient norm before clipping, whether nothing was updated, and the
    loss scale (1 without fp16)."""

    grad_norm: float
    skipped: bool
    loss_scale: float


class Backend(Protocol):
    """An engine with its model and optimizer. Every method is collective: all ranks call it alike."""

    @property
    def layout(self) -> ShardLayout: ...

    @property
    def optimizer(self) -> ShardedOptimizer: ...

    def train_micro_batch(self, batch: ModelInput, weights: LossWeights, *, last: bool) -> torch.Tensor:
        """Forward and backward; returns the (MLM, NSP) loss sums of this rank, [2] fp32.

        `last` closes the accumulation; the gradient is then the sum over ranks and micro-batches.
        """
        ...

    def step(self, lr: float) -> StepResult:
        """One optimizer step on the accumulated gradient, which is cleared."""
        ...

    def score(self, batch: ModelInput) -> tuple[torch.Tensor, ...]:
        """Per position, without gradients or dropout: see `PretrainingModel.score`."""
        ...

    def refresh_weights(self) -> None:
        """Makes the weights that compute equal to the master weights, after these were written from outside."""
        ...
