"""Bytes of a weight by hand: 4 for each time that it, its gradient, a moment or an update is read or written."""

import pytest

from pretrain.optim import AdafactorOptions, AdamWOptions, LambOptions, Rule, SgdOptions
from pretrain.plan.optimizer_step import optimizer_bytes


@pytest.mark.parametrize(
    ("rule", "times"),
    [
        (AdamWOptions(), len(("g", *"gwmv", *"wmv"))),
        (LambOptions(), len(("g", *"gwmv", *"umv", *"uw", "w"))),
        (SgdOptions(), len(("g", *"gwm", *"wm"))),
        (SgdOptions(momentum=0.0), len(("g", *"gw", "w"))),
        (AdafactorOptions(), len(("g", *"gw", "g", "u", "u", *"uw", "w"))),
    ],
)
def test_what_a_step_moves(rule: Rule, times: int) -> None:
    assert optimizer_bytes(rule) == 4 * times
