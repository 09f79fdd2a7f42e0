"""`python -m pretrain faults`: which rows it runs, what it writes, and how it ends."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from pretrain import command
from pretrain.command import faults
from pretrain.faults.bench import Bench
from pretrain.faults.row import NotHere, Row, Try, expect
from pretrain.faults.rows import ROWS


def kept(in_full: bool) -> None: ...


def broken(in_full: bool) -> None:
    expect(False, "parts of [two] checkpoints")


def not_here(in_full: bool) -> None:
    raise NotHere("no cable")


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    def row(name: str, act: Callable[[bool], None]) -> Row:
        def tries(bench: Bench) -> Iterator[Try]:
            for number in range(20 if bench.in_full else 2):
                yield Try(f"{name} {number}", partial(act, bench.in_full))

        return Row(name, f"the fault {name}", f"the promise of {name}", tries)

    rows = (row("kept", kept), row("broken", broken), row("cable", not_here))
    monkeypatch.setattr(faults, "ROWS", rows)


@pytest.mark.usefixtures("three")
def test_a_red_row_ends_it_with_1_and_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["faults", "--sample", "--output", str(tmp_path / "out.json")]) == 1
    out, err = capsys.readouterr()
    assert err == "error: 1 of 3 rows are red: broken.\n"
    assert "kept: green; 2 of 2 green" in out and "cable: not run; 0 of 0 green" in out
    assert "broken, red: broken 1: parts of [two] checkpoints" in out and "cable, not run: no cable" in out
    content = json.loads((tmp_path / "out.json").read_text())
    states = {row["name"]: (row["state"], row["tried"], row["green"]) for row in content["rows"]}
    assert states == {"kept": ("green", 2, 2), "broken": ("red", 2, 0), "cable": ("not run", 0, 0)}
    assert content["in_full"] is False and "torch" in content["versions"]


@pytest.mark.usefixtures("three")
def test_chosen_rows_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["faults", "--only", "cable", "kept"]) == 0
    assert "kept: green; 20 of 20 green" in capsys.readouterr().out


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--only", "nothing"], "--only nothing is no row; there are kept, broken, cable"),
        (["--launch", "nowhere.py"], "nowhere.py is not there"),
        (["--folder", "."], "--folder . is there already"),
    ],
)
def test_what_cannot_be_begun(arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["faults", *arguments]) == 2
    assert part in capsys.readouterr().err


def test_it_lists_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["faults", "--list"]) == 0
    out = capsys.readouterr().out
    assert [row.name for row in ROWS if row.name not in out] == []
    assert len({row.name for row in ROWS}) == len(ROWS)
