"""Every row of the matrix of faults, a sample of its tries, and all of them in full."""

import pytest

from pretrain.faults.bench import Bench
from pretrain.faults.row import Row, outcome_of
from pretrain.faults.rows import ROWS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(row: Row, bench: Bench) -> None:
    outcome = outcome_of(row, bench)
    assert not outcome.seen, "\n".join(outcome.seen)
    if outcome.state == "not run":
        pytest.skip("; ".join(outcome.not_run))
    assert outcome.state == "green"
