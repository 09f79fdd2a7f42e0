"""What a run is asked to do: the recipe says what is computed, the ds_config says how.

1. the recipe (TOML) and `section.key=value` overrides say model, data, batch, optimizer, schedule (`recipe`);
2. the engine config (DeepSpeed's JSON, read for both backends) says stage, precision, buckets (`engine`);
3. they are laid over one another, key by key (`layers`); what is said twice must agree, and where each value
   came from is kept (`resolve`, `run_config`);
4. the rows of a step are shared out among the ranks (`cut`).
"""

from pretrain.config.batch_plan import BatchPlan
from pretrain.config.cut import batch_cut
from pretrain.config.engine import EngineConfig
from pretrain.config.recipe import BlendedStore, Recipe, WatchSection
from pretrain.config.resolve import resolve
from pretrain.config.run_config import EarlierCut, RunConfig

__all__ = [
    "BatchPlan",
    "BlendedStore",
    "EarlierCut",
    "EngineConfig",
    "Recipe",
    "RunConfig",
    "WatchSection",
    "batch_cut",
    "resolve",
]
