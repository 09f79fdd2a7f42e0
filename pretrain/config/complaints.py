"""Sentences about a config that does not fit: which key, in which file, what is wrong, what to do."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pretrain.errors import UsageError


def known_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted key a config may have, sections included."""
    for name, field in model.model_fields.items():
        yield prefix + name
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from known_keys(kind, f"{prefix}{name}.")


def nearest_key(key: str, known: list[str]) -> str:
    """`; did you mean "x"?`, or what is known there; the numbers of tables in a list do not count."""
    key = ".".join(part for part in key.split(".") if not part.isdigit())
    section, _, name = key.rpartition(".")
    siblings = [other for other in known if other.rpartition(".")[0] == section]
    near = _nearest_name(name, siblings, 0.6) or _nearest_name(name, known, 0.7)
    return f'; did you mean "{near}"?' if near else f"; known there: {', '.join(siblings) or 'no key'}."


def _nearest_name(name: str, keys: list[str], similarity: float) -> str | None:
    """The key whose last part is most like `name`: sections in common would make any two keys look alike. Of several
    with the same last part the first: `train.steps` before `profile.steps`."""
    by_name = {key.rpartition(".")[2]: key for key in reversed(keys)}
    found = get_close_matches(name, by_name, 1, similarity)
    return by_name[found[0]] if found else None


def complaint(
    error: ValidationError,
    model: type[BaseModel],
    place: Mapping[str, str] | str,
    refused: Mapping[str, str] | None = None,
) -> UsageError:
    """All problems of a validation, each as one sentence: one after the place, several on lines of their own.

    `place` names the file, or the place of each dotted key; `refused` are keys known elsewhere, with advice.
    """
    known = list(known_keys(model))
    found: dict[str, tuple[str, str]] = {}  # of a key's problems the first: unions have one for each member
    refused_types: set[str] = set()
    for problem in error.errors():
        key = _dotted(problem["loc"], known)
        where = place if isinstance(place, str) else _place_of(key, place)
        found.setdefault(key, (where, _sentence(problem, key, known, refused or {})))
        if key.endswith(".type") and problem["type"] != "missing":
            refused_types.add(key)
    found = {key: each for key, each in found.items() if _type_of(key) not in refused_types}
    if len(found) == 1:
        return UsageError(": ".join(*found.values()))
    places = {where for where, _ in found.values()}
    if len(places) == 1:
        head, lines = f"{places.pop()}: ", [sentence for _, sentence in found.values()]
    else:
        head, lines = "", [f"{where}: {sentence}" for where, sentence in found.values()]
    return UsageError("\n  ".join([f"{head}{len(found)} keys do not fit:", *lines]))


def _sentence(problem: ErrorDetails, key: str, known: list[str], refused: Mapping[str, str]) -> str:
    """What is wrong with the key, without its place."""
    if key in refused and problem["type"] == "extra_forbidden":
        return f'"{key}" = {_shown(problem["input"])} is not carried here; {refused[key]}.'
    if problem["type"] == "extra_forbidden":
        return f'unknown key "{key}"{nearest_key(key, known)}'
    if problem["type"] == "model_type":
        return f'"{key}" is {_shown(problem["input"])}: it must be a section with keys of its own.'
    message = problem["msg"].removeprefix("Value error, ")
    subject = f'"{key}"' if key else "the file"
    value = "" if isinstance(problem["input"], dict) else f" is {_shown(problem['input'])}"
    return f"{subject}{value}: {message[:1].lower()}{message[1:]}."


def _type_of(key: str) -> str | None:
    """The key that says what an optimizer or scheduler is, of one of its parameters."""
    block, params, _ = key.partition(".params.")
    return f"{block}.type" if params else None


def _shown(value: Any) -> str:
    """A value as Python writes it, a block by its keys alone."""
    return f"{{{', '.join(map(str, value))}}}" if isinstance(value, dict) else repr(value)


def _dotted(location: tuple[Any, ...], known: list[str]) -> str:
    """The key a problem is about; what pydantic adds for the members of a union is dropped."""
    parts: list[str] = []
    for part in map(str, location):
        candidate = ".".join([*parts, part])
        if parts and candidate not in known and ".".join(parts) in known and _has_no_sections(parts, known):
            break
        parts.append(part)
    return ".".join(parts)


def _has_no_sections(parts: list[str], known: list[str]) -> bool:
    prefix = ".".join(parts) + "."
    return not any(key.startswith(prefix) for key in known)


def _place_of(key: str, places: Mapping[str, str]) -> str:
    if key in places:
        return places[key]
    inside = [place for other, place in places.items() if other.startswith(key + ".")]
    if not inside:  # a key that is missing: where its neighbours are
        section = key.rpartition(".")[0] + "."
        inside = [place for other, place in places.items() if other.startswith(section)]
    return " and ".join(dict.fromkeys(inside)) or "recipe"
