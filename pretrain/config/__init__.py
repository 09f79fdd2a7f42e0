"""What a run is asked to do: the recipe says what is computed, the ds_config says how.

1. the recipe (TOML) and `section.key=value` overrides say model, data, batch, optimizer, schedule (`recipe`);
2. the engine config (DeepSpeed's JSON, read for both backends) says stage, precision, buckets (`engine`);
3. they are laid over one another, key by key (`layers`); what is said twice must agree, and where each value
   came from is kept (`resolve`).
"""

from pretrain.config.batch_plan import BatchPlan
from pretrain.config.engine import EngineConfig
from pretrain.config.recipe import BlendedStore, Recipe
from pretrain.config.resolve import RunConfig, batch_cut, resolve

__all__ = ["BatchPlan", "BlendedStore", "EngineConfig", "Recipe", "RunConfig", "batch_cut", "resolve"]
