"""Which checkpoints go, by hand."""

import pytest

from pretrain.checkpoint import Retention

STEPS = [100, 200, 300, 400, 450, 500]


@pytest.mark.parametrize(
    ("retention", "newest", "best", "gone"),
    [
        (Retention(2), 500, None, [100, 200, 300, 400]),
        (Retention(6), 500, None, []),
        (Retention(9), 500, None, []),
        (Retention(1, keep_every=200), 500, None, [100, 300, 450]),
        (Retention(2, keep_every=1000), 500, None, [100, 200, 300, 400]),
        (Retention(1, best=True), 500, 300, [100, 200, 400, 450]),
        (Retention(1, best=True), 500, 500, [100, 200, 300, 400, 450]),
        (Retention(2, keep_every=200, best=True), 500, 100, [300]),
        # The run went back to 300: what lies beyond will be saved again, and is not counted.
        (Retention(2), 300, None, [100]),
        (Retention(1, keep_every=100), 300, None, []),
    ],
)
def test_superseded(retention: Retention, newest: int, best: int | None, gone: list[int]) -> None:
    assert retention.superseded(STEPS[::-1], newest, best) == gone
