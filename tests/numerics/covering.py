"""Covering arrays: few rows of values in which every few of the axes meet in every way."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import combinations, product
from operator import or_
from typing import Any

Row = tuple[Any, ...]  # one value of each axis, in the order of the axes


def covering_array(
    axes: Mapping[str, Sequence[Any]],
    strength: int,
    *,
    begin_with: Sequence[Row] = (),
) -> list[Row]:
    """Rows such that any values of any `strength` axes occur together in one of them; the same rows at every call.

    Greedy: the next row is the one with the most tuples that no row has yet (Cohen et al. 1997, "The
    AETG system"), among equals the one whose pairs have been used least, then the first. `begin_with` are
    rows that are taken first.
    """
    candidates = list(product(*axes.values()))
    pairs = _numbered_tuples(candidates, 2)
    covers = [sum(1 << number for number in numbers) for numbers in _numbered_tuples(candidates, strength)]
    chosen = [candidates.index(row) for row in begin_with]
    uses = Counter(pair for index in chosen for pair in pairs[index])
    missing = reduce(or_, covers, 0) & ~reduce(or_, (covers[index] for index in chosen), 0)
    while missing:
        gains = [(bits & missing).bit_count() for bits in covers]
        most = max(gains)
        equals = [index for index, gain in enumerate(gains) if gain == most]
        # Squared, so that two uses of one pair weigh more than one use of two.
        best = min(equals, key=lambda index: sum(uses[pair] ** 2 for pair in pairs[index]))
        chosen.append(best)
        uses.update(pairs[best])
        missing &= ~covers[best]
    return [candidates[index] for index in chosen]


def _numbered_tuples(rows: Sequence[Row], strength: int) -> list[list[int]]:
    """Of each row the tuples in it, every distinct one with a number of its own."""
    numbers: dict[tuple[tuple[int, Any], ...], int] = {}
    return [
        [numbers.setdefault(each, len(numbers)) for each in combinations(enumerate(row), strength)]
        for row in rows
    ]
