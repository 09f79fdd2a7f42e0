"""From files and command line to one resolved configuration, with the origin of each value.

A value may be said by the recipe, by an override on the command line (which replaces the recipe's) and by
the ds_config. Recipe and ds_config must agree where both speak; `"auto"` agrees with everything. A recipe
that nobody named is only a default: whatever is said elsewhere replaces its values.
"""

import json
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pretrain.config.belonging import check_belonging
from pretrain.config.complaints import complaint
from pretrain.config.engine import (
    FSDP_HINTS,
    HINTS,
    OPTIMIZER_TYPES,
    REFUSED_KEYS,
    SCHEDULER_TYPES,
    EngineConfig,
)
from pretrain.config.layers import Said, flat, nested, overridden, replaced
from pretrain.config.recipe import Recipe
from pretrain.errors import UsageError

MAX_AUTO_TOKENS = 8192  # tokens of a micro-batch that `auto` chooses at most
MAX_CONFIG_BYTES = 1 << 20
_DEFAULT_RECIPE = "default recipe"


@dataclass(frozen=True)
class RunConfig:
    """Everything that was decided. `origins` says where each recipe value that is no default came from."""

    recipe: Recipe
    engine: EngineConfig
    origins: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for config.json."""
        return {
            "recipe": self.recipe.model_dump(),
            "ds_config": self.engine.model_dump(),
            "origins": self.origins,
        }

    def unused_hints(self) -> list[str]:
        """Keys of the ds_config that speak to DeepSpeed alone and change no result."""
        given = self.engine.zero_optimization.given()
        return [f"zero_optimization.{name}" for name in HINTS if name in given and name not in FSDP_HINTS]


def resolve(
    *,
    recipe_path: Path | None,
    default_recipe: Path,
    ds_config_path: Path | None,
    overrides: Sequence[str],
    world_size: int,
) -> RunConfig:
    """Reads, merges and checks.

    Raises:
        UsageError: a file is missing or broken, a key is unknown, a value has the wrong type, or two places
            contradict each other.
    """
    engine = _read_engine(ds_config_path)
    said = {key: Said(value, str(recipe_path)) for key, value in _read_recipe(recipe_path).items()}
    said = overridden(said, overrides)
    for key, from_engine in _said_by_engine(engine, str(ds_config_path), world_size).items():
        if key in said and not _same(said[key].value, from_engine.value):
            raise UsageError(
                f"{key} is {said[key].value!r} in {said[key].place} but {from_engine.value!r} in "
                f'{from_engine.place}: make them equal, or write "auto" in the ds_config.'
            )
        if key not in said or said[key].value == "auto":
            said[key] = from_engine
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
    return RunConfig(recipe, engine, dict(sorted(places.items())))


def batch_cut(config: RunConfig, world_size: int) -> tuple[int, int]:
    """(micro_batch, accumulation): rows per rank and forward pass, and passes per step of train.global_batch.

    The stages before it have fewer passes of the same micro-batch.

    Raises:
        UsageError: a global batch is not micro_batch * ranks * accumulation.
    """
    train, said = config.recipe.train, config.engine.gradient_accumulation_steps
    sizes = train.batch_plan.sizes
    for rows in sizes:
        if rows % world_size:
            raise UsageError(_rows_without_a_rank(rows, rows == train.global_batch, world_size))
    rows_per_rank = train.global_batch // world_size
    common = gcd(*sizes) // world_size  # of the ranks' shares; their multiple, because each of them is one
    if train.micro_batch != "auto":
        micro_batch = train.micro_batch
    elif said != "auto":
        micro_batch = max(1, rows_per_rank // said)
    else:
        limit = max(1, MAX_AUTO_TOKENS // config.recipe.data.seq_len)
        micro_batch = max(rows for rows in range(1, min(limit, common) + 1) if common % rows == 0)
    accumulation = rows_per_rank // micro_batch
    if said == "auto" and rows_per_rank % micro_batch:
        raise UsageError(
            f"train.global_batch is {train.global_batch} rows, no multiple of micro-batch {micro_batch} x {world_size} "
            f"rank(s) = {micro_batch * world_size}: change train.global_batch or train.micro_batch so that it is one."
        )
    if said != "auto" and micro_batch * said != rows_per_rank:
        ranks, rest = divmod(train.global_batch, micro_batch * said)
        raise UsageError(
            f"train.global_batch is {train.global_batch} rows, but micro-batch {micro_batch} x {world_size} ranks x "
            f"{said} accumulation steps is {micro_batch * world_size * said}: change train.global_batch, "
            "train.micro_batch or gradient_accumulation_steps so that the product is equal"
            f"{'' if rest else f', or start {ranks} rank(s)'}."
        )
    for rows in sizes:
        if rows % (micro_batch * world_size):
            raise UsageError(
                f"train.batch_stages has a stage of {rows} rows, which micro-batches of {micro_batch} rows on "
                f"{world_size} rank(s) do not divide: make it a multiple of {micro_batch * world_size}, or lower "
                "train.micro_batch."
            )
    return micro_batch, accumulation


def _rows_without_a_rank(rows: int, is_global_batch: bool, world_size: int) -> str:
    what = "train.global_batch" if is_global_batch else "a stage of train.batch_stages"
    if rows < world_size:
        return f"{what} is {rows} rows but there are {world_size} ranks: give every rank a row, or start fewer ranks."
    return (
        f"{what} of {rows} rows does not divide over {world_size} ranks: choose a multiple of {world_size}."
    )


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


def _said_by_engine(engine: EngineConfig, file: str, world_size: int) -> dict[str, Said]:
    """What the ds_config says that belongs to the recipe; `auto` says nothing."""
    found: dict[str, tuple[Any, str]] = {
        "train.global_batch": (engine.train_batch_size, "train_batch_size"),
        "train.micro_batch": (engine.train_micro_batch_size_per_gpu, "train_micro_batch_size_per_gpu"),
        "optimizer.gradient_clipping": (engine.gradient_clipping, "gradient_clipping"),
    }
    micro, accumulation = engine.train_micro_batch_size_per_gpu, engine.gradient_accumulation_steps
    if engine.train_batch_size == "auto" and micro != "auto" and accumulation != "auto":
        product = f"train_micro_batch_size_per_gpu x gradient_accumulation_steps x {world_size} ranks"
        found["train.global_batch"] = (micro * accumulation * world_size, product)
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
