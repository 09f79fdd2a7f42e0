"""Numbers on a benchmark's command line, and names of its parts: nonsense is refused before anything runs."""

from argparse import ArgumentTypeError
from collections.abc import Iterable, Sequence
from math import isfinite


def whole(text: str) -> int:
    """For argparse: 1 or more."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise ArgumentTypeError(f"{text!r} is no whole number from 1")
    return value


def positive(text: str) -> float:
    """For argparse: finite, above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not (isfinite(value) and value > 0):
        raise ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def check_only(only: Sequence[str] | None, names: Iterable[str]) -> None:
    """Ends the program where one of the texts is part of no name."""
    names = tuple(names)
    for text in only or ():
        if not any(text in name for name in names):
            raise SystemExit(f"--only {text}: there is no such part; there are: {'; '.join(names)}")
