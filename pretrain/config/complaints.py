"""Sentences about a config that does not fit: which key, in which file, what is wrong, what to do."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

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
    """The key whose last part is most like `name`: sections in common would make any two keys look alike."""
    by_name = {key.rpartition(".")[2]: key for key in keys}
    found = get_close_matches(name, by_name, 1, similarity)
    return by_name[found[0]] if found else None


def complaint(
    error: ValidationError,
    model: type[BaseModel],
    place: Mapping[str, str] | str,
    refused: Mapping[str, str] | None = None,
) -> UsageError:
    """The first problem of a validation as one sentence.

    `place` names the file, or the place of each dotted key; `refused` are keys known elsewhere, with advice.
    """
    known = list(known_keys(model))
    problem = error.errors()[0]
    key = _dotted(problem["loc"], known)
    where = place if isinstance(place, str) else _place_of(key, place)
    if refused and key in refused:
        return UsageError(f'{where}: "{key}" = {problem["input"]!r} is not carried here; {refused[key]}.')
    if problem["type"] == "extra_forbidden":
        return UsageError(f'{where}: unknown key "{key}"{nearest_key(key, known)}')
    if problem["type"] == "model_type":
        return UsageError(
            f'{where}: "{key}" is {problem["input"]!r}: it must be a section with keys of its own.'
        )
    message = problem["msg"].removeprefix("Value error, ")
    value = "" if isinstance(problem["input"], dict) else f" is {problem['input']!r}"
    return UsageError(f'{where}: "{key}"{value}: {message[:1].lower()}{message[1:]}.')


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
