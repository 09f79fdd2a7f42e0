"""How tries are counted: nothing that was not tried is green, and one that is red is told and stops nobody."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pretrain.faults.bench import Bench
from pretrain.faults.row import MAX_SEEN, NotHere, Outcome, Red, Row, Try, expect, only, outcome_of


def red() -> None:
    raise Red("it was mixed")


def not_here() -> None:
    raise NotHere("no disk may be mounted")


def broken() -> None:
    raise KeyError("surprise")


def green() -> None: ...


def outcome(*acts: Callable[[], None], end: Callable[[], None] = green) -> Outcome:
    def tries(bench: Bench) -> Iterator[Try]:
        for number, act in enumerate(acts):
            yield Try(f"try {number}", act)
        end()

    return outcome_of(Row("row", "fault", "promise", tries), Bench(Path(), Path(), in_full=False))


@pytest.mark.parametrize(
    ("acts", "tried", "count", "state"),
    [
        ((green, green), 2, 2, "green"),
        ((green, red, green), 3, 2, "red"),
        ((green, not_here), 1, 1, "green"),
        ((red, not_here), 1, 0, "red"),
        ((not_here, not_here), 0, 0, "not run"),
        ((), 0, 0, "not run"),
        ((broken, green), 2, 1, "red"),
    ],
)
def test_what_is_counted(acts: tuple[Callable[[], None], ...], tried: int, count: int, state: str) -> None:
    found = outcome(*acts)
    assert (found.tried, found.green, found.state) == (tried, count, state)


def test_what_was_seen_is_told() -> None:
    assert outcome(green, red).seen == ("try 1: it was mixed",)
    (seen,) = outcome(broken).seen
    assert seen.startswith("try 0: KeyError: 'surprise' (") and "test_row.py:" in seen
    assert len(outcome(*[red] * 20).seen) == MAX_SEEN
    assert outcome(not_here, not_here).not_run == ("no disk may be mounted",)


def test_a_row_that_breaks_off_between_tries_is_red() -> None:
    assert outcome(green, end=red).state == "red"
    assert outcome(end=not_here).state == "not run"


def test_expectations() -> None:
    expect([1], "never")
    assert only(["a"], "letters") == "a"
    for kept in list[object]([[], None, 0, False]):
        with pytest.raises(Red, match="seen"):
            expect(kept, "seen")
    for found in ([], ["a", "b"]):
        with pytest.raises(Red, match=f"{len(found)} letters"):
            only(found, "letters")
