"""Optimizers over shards: LAMB and AdamW that stay exact however the weights are cut."""

from pretrain.optim.adamw import AdamWOptions
from pretrain.optim.decay import decay_of
from pretrain.optim.lamb import LambOptions
from pretrain.optim.schedule import Schedule
from pretrain.optim.sharded import ShardedOptimizer
from pretrain.optim.spikes import SpikeRule

__all__ = ["AdamWOptions", "LambOptions", "Schedule", "ShardedOptimizer", "SpikeRule", "decay_of"]
