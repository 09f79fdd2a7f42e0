"""Optimizers over shards that stay exact however the weights are cut: LAMB, AdamW, SGD, Adafactor; rates, lengths."""

from pretrain.optim.adafactor import AdafactorOptions
from pretrain.optim.adamw import AdamWOptions
from pretrain.optim.decay import decay_of
from pretrain.optim.lamb import LambOptions
from pretrain.optim.length import Progress, RunLength, Validations
from pretrain.optim.loss_scale import LossScaleOptions, LossScaler, LossScaleState
from pretrain.optim.noise_scale import NoiseScale, NoiseState, noise_estimate
from pretrain.optim.scaling import ScalingRule, scaled_lr
from pretrain.optim.schedule import Schedule
from pretrain.optim.sgd import SgdOptions
from pretrain.optim.sharded import Rule, ShardedOptimizer
from pretrain.optim.skipping import Skip, SkipReason
from pretrain.optim.spikes import SpikeRule

__all__ = [
    "AdafactorOptions",
    "AdamWOptions",
    "LambOptions",
    "LossScaleOptions",
    "LossScaleState",
    "LossScaler",
    "NoiseScale",
    "NoiseState",
    "Progress",
    "Rule",
    "RunLength",
    "ScalingRule",
    "Schedule",
    "SgdOptions",
    "ShardedOptimizer",
    "Skip",
    "SkipReason",
    "SpikeRule",
    "Validations",
    "decay_of",
    "noise_estimate",
    "scaled_lr",
]
