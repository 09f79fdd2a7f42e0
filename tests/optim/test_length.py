"""Which limit ends a run, and how much of it is done."""

from math import inf, nan

import pytest

from pretrain.config import BatchPlan
from pretrain.optim import Progress, RunLength, Validations


@pytest.mark.parametrize(
    ("done", "key"),
    [
        (Progress(9, 999, 59.9), None),
        (Progress(10, 0, 0.0), "train.steps"),
        (Progress(9, 1000, 0.0), "train.tokens"),
        (Progress(9, 1001, 0.0), "train.tokens"),
        (Progress(9, 0, 60.0), "train.hours"),
        (Progress(), None),
    ],
)
def test_whichever_comes_first_ends_it(done: Progress, key: str | None) -> None:
    assert RunLength(10, 10, 1000, 60.0).reached(done) == key


def test_what_is_not_said_is_no_limit() -> None:
    far = Progress(10**9, 10**15, 1e9)
    assert RunLength(10).reached(far) is None
    assert RunLength(10, tokens=10**15).reached(far) == "train.tokens"


def test_validations_by_hand() -> None:
    """The best is the lowest; an improvement must lie more than 0.1 below the last one."""
    found, told = Validations(), []
    for step, loss in enumerate((nan, 3.0, 2.95, 2.89, 2.8, inf, 2.795, 2.7, 2.7), 1):
        found = found.after(step, loss, 0.1)
        told.append((found.best_step, found.mark, found.without_improvement))
    assert told == [
        *((None, None, 1), (2, 3.0, 0), (3, 3.0, 1), (4, 2.89, 0), (5, 2.89, 1), (5, 2.89, 2)),
        *((7, 2.89, 3), (8, 2.7, 0), (8, 2.7, 1)),
    ]
    assert found.best_loss == 2.7
    length = RunLength(10, 10, patience=2)
    assert length.reached(Progress(5, validations=found)) is None
    assert length.reached(Progress(5, validations=found.after(10, 3.0, 0.1))) == "eval.patience"
    assert RunLength(10, 10).reached(Progress(5, validations=Validations(without_improvement=99))) is None


def test_the_share_is_that_of_what_is_further_and_never_the_clocks() -> None:
    assert RunLength(10, 10, None, 60.0).share(Progress(5, 5, 59.0)) is None
    assert RunLength(8, None, 1000).share(Progress(5, 250, 0.0)) == 0.25
    assert RunLength(8, 10, 1000).share(Progress(5, 250, 0.0)) == 0.5
    assert RunLength(8, 10, 1000).share(Progress(5, 1250, 0.0)) == 1.0


def test_steps_are_expected_from_those_that_were_done() -> None:
    assert RunLength(8, 10).expected_steps(Progress(3, 70)) == 8
    by_tokens = RunLength(8, None, 1000)
    assert by_tokens.expected_steps(Progress()) == 8
    assert by_tokens.expected_steps(Progress(5, 250)) == 20
    assert RunLength(8, 15, 1000).expected_steps(Progress(5, 250)) == 15


def test_steps_are_expected_from_rows_where_the_batch_grows() -> None:
    """Rows of 5 tokens: 200 take 1,000, of which 10 x 2 and 10 x 4 in stages, and 140 by 8."""
    length = RunLength(0, None, 1000, batches=BatchPlan(8, ((10, 2), (10, 4))))
    for steps, tokens in ((1, 10), (10, 100), (15, 200), (20, 300), (25, 500)):
        assert length.expected_steps(Progress(steps, tokens)) == 10 + 10 + 18
