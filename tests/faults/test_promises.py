"""The page of promises names every row, and rows and tests that are there."""

import re
from pathlib import Path

from pretrain.faults.rows import ROWS
from tests.worlds import ROOT

PAGE = ROOT / "pretrain" / "faults" / "README.md"


def shown_by() -> list[str]:
    """What stands in the second column of the table."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")][1:]
    return [name for line in lines for name in re.findall(r"`([^`]+)`", line.split("|")[2])]


def test_every_promise_is_shown_by_a_row_or_a_test() -> None:
    names = shown_by()
    rows = [name for name in names if not name.startswith("tests/")]
    assert sorted(rows) == sorted(row.name for row in ROWS)
    assert [name for name in names if name.startswith("tests/") and not Path(ROOT, name).is_file()] == []
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")][1:]
    assert [line for line in lines if "`" not in line.split("|")[2]] == []
