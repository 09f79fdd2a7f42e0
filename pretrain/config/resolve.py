"""From files and command line to one resolved configuration, with the origin of each value.

A value may be said by the recipe, by an override on the command line (which replaces the recipe's) and by
the ds_config. Recipe and ds_config must agree where both speak; `"auto"` agrees with everything. A recipe
that nobody named is only a default: whatever is said elsewhere replaces its values.
"""

import json
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pretrain.config.belonging import check_belonging
from pretrain.config.complaints import complaint
from pretrain.config.cut import batch_cut
from pretrain.config.engine import (
    OPTIMIZER_TYPES,
    REFUSED_KEYS,
    SCHEDULER_TYPES,
    EngineConfig,
)
from pretrain.config.layers import Said, flat, nested, overridden, replaced
from pretrain.config.recipe import Recipe
from pretrain.config.run_config import EarlierCut, RunConfig
from pretrain.errors import UsageError

MAX_CONFIG_BYTES = 1 << 20
_DEFAULT_RECIPE = "default recipe"


def resolve(
    *,
    recipe_path: Path | None,
    default_recipe: Path,
    ds_config_path: Path | None,
    overrides: Sequence[str],
    world_size: int | None,
    earlier: EarlierCut | None = None,
) -> RunConfig:
    """Reads, merges and checks, for so many ranks; None: for any number, which leaves a global batch open that the
    ds_config says as a product with the ranks.

    `earlier`: of the checkpoint that the run goes on from. If it had another number of ranks and nothing else about
    the batch was said, the global batch stays, and is cut anew.

    Raises:
        UsageError: a file is missing or broken, a key is unknown, a value has the wrong type, or two places
            contradict each other.
    """

    def read(kept: EarlierCut | None = None) -> RunConfig:
        return _resolved(recipe_path, default_recipe, ds_config_path, overrides, world_size, kept)

    if earlier is None or world_size is None:
        return read()
    config: RunConfig | None = None
    problem: UsageError | None = None
    try:
        config = read()
        batch_cut(config, world_size)
    except UsageError as error:
        problem = error
    if config is not None and problem is None and config.recipe.train.global_batch == earlier.global_batch:
        return config
    kept = read(earlier)
    if earlier.is_said_again(kept):
        return kept
    if config is None and problem is not None:
        raise problem
    return config or kept


def _resolved(
    recipe_path: Path | None,
    default_recipe: Path,
    ds_config_path: Path | None,
    overrides: Sequence[str],
    world_size: int | None,
    kept: EarlierCut | None,
) -> RunConfig:
    engine = _read_engine(ds_config_path)
    said = {key: Said(value, str(recipe_path)) for key, value in _read_recipe(recipe_path).items()}
    said = overridden(said, overrides)
    by_engine = _said_by_engine(engine, str(ds_config_path), None if kept else world_size)
    for key, from_engine in by_engine.items():
        if key in said and not _same(said[key].value, from_engine.value):
            raise UsageError(
                f"{key} is {said[key].value!r} in {said[key].place} but {from_engine.value!r} in "
                f'{from_engine.place}: make them equal, or write "auto" in the ds_config.'
            )
        if key not in said or said[key].value == "auto":
            said[key] = from_engine
    if kept is not None and engine.rows_per_rank is not None:
        said.setdefault(
            "train.global_batch", Said(kept.global_batch, "the checkpoint that the run goes on from")
        )
    if "train.tokens" in said and "train.steps" not in said:
        said["train.steps"] = Said(None, said["train.tokens"].place)  # they end the run in its stead
    if recipe_path is None:
        place = f"{_DEFAULT_RECIPE} {default_recipe.name}"
        defaults = {key: Said(value, place) for key, value in _read_recipe(default_recipe).items()}
        said = replaced(defaults, said)
    places = {key: each.place for key, each in said.items()}
    try:
        recipe = Recipe.model_validate(nested({key: each.value for key, each in said.items()}))
    except ValidationError as error:
        raise complaint(error, Recipe, places) from None
    check_belonging(recipe, said, _DEFAULT_RECIPE)
    return RunConfig(recipe, engine, dict(sorted(places.items())), kept)


def _read_engine(path: Path | None) -> EngineConfig:
    if path is None:
        return EngineConfig()
    content = _parsed(path, "ds_config", _loads_json, "JSON")
    if not isinstance(content, dict):
        raise UsageError(f"ds_config {path} holds {type(content).__name__}, not a JSON object {{...}}.")
    try:
        return EngineConfig.model_validate(content)
    except ValidationError as error:
        raise complaint(error, EngineConfig, f"ds_config {path}", REFUSED_KEYS) from None


def _read_recipe(path: Path | None) -> dict[str, Any]:
    return {} if path is None else flat(_parsed(path, "recipe", tomllib.loads, "TOML"))


def _loads_json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; Python itself would keep the last of two equal keys in silence."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f'"{max(keys, key=keys.count)}" is said twice in one object')
    return content


def _parsed(path: Path, kind: str, parse: Callable[[str], Any], language: str) -> Any:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise UsageError(f"{kind} {path} has over {MAX_CONFIG_BYTES} bytes; is it the right file?")
        return parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{kind} {path} cannot be read: {error.strerror or error}.") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{kind} {path} is no {language}: {error}.") from None


def _said_by_engine(engine: EngineConfig, file: str, world_size: int | None) -> dict[str, Said]:
    """What the ds_config says that belongs to the recipe; `auto` says nothing. None: no product with the ranks."""
    found: dict[str, tuple[Any, str]] = {
        "train.global_batch": (engine.train_batch_size, "train_batch_size"),
        "train.micro_batch": (engine.train_micro_batch_size_per_gpu, "train_micro_batch_size_per_gpu"),
        "optimizer.gradient_clipping": (engine.gradient_clipping, "gradient_clipping"),
    }
    if world_size is not None and engine.rows_per_rank is not None:
        product = f"train_micro_batch_size_per_gpu x gradient_accumulation_steps x {world_size} ranks"
        found["train.global_batch"] = (engine.rows_per_rank * world_size, product)
    if engine.optimizer is not None:
        params, name = engine.optimizer.params, engine.optimizer.type
        betas = ("auto", "auto") if params.betas == "auto" else tuple(params.betas)
        if len(betas) != 2:
            raise UsageError(f"ds_config {file}: optimizer.params.betas has {len(betas)} entries, not 2.")
        found |= {
            "optimizer.name": (OPTIMIZER_TYPES[name], "optimizer.type"),
            "optimizer.lr": (params.lr, "optimizer.params.lr"),
            "optimizer.beta1": (betas[0], "optimizer.params.betas"),
            "optimizer.beta2": (betas[1], "optimizer.params.betas"),
            "optimizer.eps": (params.eps, "optimizer.params.eps"),
            "optimizer.momentum": (params.momentum, "optimizer.params.momentum"),
            "optimizer.nesterov": (params.nesterov, "optimizer.params.nesterov"),
            "optimizer.weight_decay": (params.weight_decay, "optimizer.params.weight_decay"),
            "optimizer.bias_correction": (params.bias_correction, "optimizer.params.bias_correction"),
            "optimizer.min_trust": (params.min_coeff, "optimizer.params.min_coeff"),
            "optimizer.max_trust": (params.max_coeff, "optimizer.params.max_coeff"),
        }
    if engine.scheduler is not None:
        schedule = engine.scheduler.params
        found["schedule.name"] = (SCHEDULER_TYPES[engine.scheduler.type], "scheduler.type")
        found["schedule.warmup_shape"] = (schedule.warmup_type, "scheduler.params.warmup_type")
        found["schedule.end_share"] = (schedule.cos_min_ratio, "scheduler.params.cos_min_ratio")
        found["schedule.warmup"] = (schedule.warmup_num_steps, "scheduler.params.warmup_num_steps")
        found["train.steps"] = (schedule.total_num_steps, "scheduler.params.total_num_steps")
        rate, peak = found.get("optimizer.lr", ("auto", ""))[0], schedule.warmup_max_lr
        if rate == "auto":
            found["optimizer.lr"] = (peak, "scheduler.params.warmup_max_lr")
        elif peak not in ("auto", rate):  # DeepSpeed's optimizer takes the scheduler's
            raise UsageError(
                f"ds_config {file}: optimizer.params.lr is {rate!r} but scheduler.params.warmup_max_lr is {peak!r}: "
                'make them equal, or write "auto" for one.'
            )
    return {
        key: Said(value, f"ds_config {file} ({name})")
        for key, (value, name) in found.items()
        if value != "auto"
    }


def _same(one: Any, other: Any) -> bool:
    """Equal values; a number equals itself however it is written."""
    numbers = (int, float)
    if isinstance(one, numbers) and isinstance(other, numbers):
        return float(one) == float(other)
    return bool(one == other) or one == "auto"
