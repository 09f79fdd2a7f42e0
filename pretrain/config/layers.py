"""Values by dotted key, each with the place that says it: one layer laid over another.

Tables become dotted keys, a list of tables (`[[data.blend]]`) numbered ones (`data.blend.0.weight`), so that an
override can replace a value inside either.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pretrain.errors import UsageError

MODEL_SOURCES = frozenset({"model.preset", "model.config", "model.pretrained"})
# Of each group one key is said: whoever says it replaces the others.
EXCLUSIVE = (
    MODEL_SOURCES,
    frozenset({"schedule.warmup", "schedule.warmup_samples"}),
    frozenset({"schedule.end_lr", "schedule.end_share"}),
)
STORE, BLEND = "data.store", "data.blend."


@dataclass(frozen=True)
class Said:
    """A value and the place that says it."""

    value: Any
    place: str


def overridden(said: Mapping[str, Said], overrides: Sequence[str]) -> dict[str, Said]:
    """`said` with `section.key=value` overrides; a list replaces the whole list that was there.

    Raises UsageError where an override has another form.
    """
    kept, by = dict(said), dict[str, Said]()
    for override in overrides:
        key, equals, text = override.partition("=")
        key = key.strip()
        if not equals or not key:
            raise UsageError(f"Override {override!r} is not of the form section.key=value.")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text  # a bare word is a string
        if isinstance(value, list):
            kept, by = _without(kept, f"{key}."), _without(by, f"{key}.")
        place = f"command line {override!r}"
        by |= {inner: Said(each, place) for inner, each in flat({key: value}).items()}
    return replaced(kept, by)


def replaced(said: Mapping[str, Said], by: Mapping[str, Said]) -> dict[str, Said]:
    """`said` with the values that `by` replaces, and without the model or the stores that it replaces by others."""
    kept = dict(said)
    for group in EXCLUSIVE:
        if group & by.keys():
            kept = {key: each for key, each in kept.items() if key not in group}
    if STORE in by:
        kept = _without(kept, BLEND)
    if any(key.startswith(BLEND) and key.endswith(".store") for key in by):
        kept.pop(STORE, None)
    return kept | dict(by)


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted key."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        inner = value
        if isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
            inner = {str(number): each for number, each in enumerate(value)}
        found |= flat(inner, f"{prefix}{key}.") if isinstance(inner, Mapping) else {prefix + key: inner}
    return found


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """The reverse of `flat`. Raises UsageError for a key inside a value, or a gap in the numbers of a list."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        inner = found
        *sections, name = key.split(".")
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise UsageError(f'"{key}" is inside "{section}", which is a value and no section.')
        inner[name] = value
    return {key: _with_lists(key, value) for key, value in found.items()}


def _with_lists(key: str, value: Any) -> Any:
    """Tables under the numbers 0, 1, ... as the list they are."""
    if not isinstance(value, dict):
        return value
    content = {name: _with_lists(f"{key}.{name}", each) for name, each in value.items()}
    if not content or not all(name.isdecimal() for name in content):
        return content
    numbers = sorted(map(int, content))
    if numbers != list(range(len(content))):
        raise UsageError(
            f"{key} has entries {', '.join(map(str, numbers))}: they are numbered from 0 without a gap."
        )
    return [content[str(number)] for number in numbers]


def _without(said: Mapping[str, Said], prefix: str) -> dict[str, Said]:
    """Without the keys that begin so, and the key of a list that is empty."""
    return {
        key: each for key, each in said.items() if not key.startswith(prefix) and key != prefix.rstrip(".")
    }
