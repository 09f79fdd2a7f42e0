"""Every value that a run goes by, and where it came from."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pretrain.config import RunConfig

DEFAULT = "default"
# Of the ds_config, what is shown even where nobody said it.
_ALWAYS = ("zero_optimization.stage", "bf16.enabled", "fp16.enabled")


@dataclass(frozen=True)
class Setting:
    """A key of the recipe or of the ds_config."""

    key: str
    value: Any
    origin: str


def settings_of(
    config: RunConfig, ds_config: Path | None, store: Path | None, store_origin: str | None
) -> tuple[Setting, ...]:
    """All keys of the recipe, then those that the ds_config says and that are not the recipe's. `store`: the one that
    is read, in the place of the recipe's where another than the recipe names it (`store_origin`)."""
    origins = config.origins
    recipe = [
        Setting(key, value, _origin_of(key, origins)) for key, value in _values(config.recipe.model_dump())
    ]
    if store_origin is not None:
        used = Setting("data.store", str(store), store_origin)
        recipe = [used if each.key == used.key else each for each in recipe]
    said = dict(_said(config.engine))
    engine = []
    for key, value in _values(config.engine.model_dump()):
        if key in said or key in _ALWAYS:
            place = f"ds_config {ds_config}" if key in said else DEFAULT
            engine.append(Setting(f"ds_config {key}", value, place))
    return (*recipe, *engine)


def _origin_of(key: str, origins: dict[str, str]) -> str:
    """Of a list of tables, `data.blend`, its first entry's."""
    inner = (place for name, place in origins.items() if name.startswith(f"{key}."))
    return origins.get(key) or next(inner, DEFAULT)


def _values(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _values(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _said(block: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """What was written, as opposed to the defaults."""
    for name in block.model_fields_set:
        value = getattr(block, name)
        if isinstance(value, BaseModel):
            yield from _said(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
