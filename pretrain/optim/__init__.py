"""Optimizers over shards: LAMB and AdamW that stay exact however the weights are cut."""

from pretrain.optim.adamw import AdamWOptions
from pretrain.optim.decay import decay_of
from pretrain.optim.lamb import LambOptions
from pretrain.optim.loss_scale import LossScaleOptions, LossScaler, LossScaleState
from pretrain.optim.schedule import Schedule
from pretrain.optim.sharded import ShardedOptimizer

__all__ = [
    "AdamWOptions",
    "LambOptions",
    "LossScaleOptions",
    "LossScaleState",
    "LossScaler",
    "Schedule",
    "ShardedOptimizer",
    "decay_of",
]
