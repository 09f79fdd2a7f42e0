"""The engine config: how it is computed. DeepSpeed's JSON is its language, for both backends.

A key is honoured, or a hint that changes speed but no result, or part of what the recipe says (batch, optimizer,
scheduler; see `resolve`), or without effect, or refused by its name. ds_configs/README.md says which, for every key
that DeepSpeed documents:

    whole            the object itself and its single keys
    zero, precision  what is sharded, offloaded and in which precision
    recipe_owned     what belongs to the recipe
    refused          what is not carried, with the reason; said with the value that means "off" it is accepted
"""

from pretrain.config.engine.precision import Bf16, DataTypes, Fp16
from pretrain.config.engine.recipe_owned import OPTIMIZER_TYPES, SCHEDULER_TYPES
from pretrain.config.engine.refused import ON_BY_DEFAULT, REFUSED_KEYS
from pretrain.config.engine.whole import ENGINE_KEYS_WITHOUT_EFFECT, OLD_NAMES, EngineConfig
from pretrain.config.engine.zero import FSDP_HINTS, HINTS, NO_EFFECT, ZeroOptimization

__all__ = [
    "ENGINE_KEYS_WITHOUT_EFFECT",
    "FSDP_HINTS",
    "HINTS",
    "NO_EFFECT",
    "OLD_NAMES",
    "ON_BY_DEFAULT",
    "OPTIMIZER_TYPES",
    "REFUSED_KEYS",
    "SCHEDULER_TYPES",
    "Bf16",
    "DataTypes",
    "EngineConfig",
    "Fp16",
    "ZeroOptimization",
]
