"""SGD against torch's, in float64, with the same exclusions from weight decay."""

import pytest
import torch

from pretrain.optim import SgdOptions
from tests.optim.cuts import bind, draw, whole_layout

STEPS, LR = 15, 0.05


@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize(
    ("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)], ids=["plain", "momentum", "nesterov"]
)
def test_equals_torch(momentum: float, nesterov: bool, decay: float) -> None:
    weights = [torch.nn.Parameter(weight) for weight in draw(0, dtype=torch.float64)]
    groups = [
        {"params": [weight for weight in weights if weight.dim() > 1], "weight_decay": decay},
        {"params": [weight for weight in weights if weight.dim() <= 1], "weight_decay": 0.0},
    ]
    theirs = torch.optim.SGD(groups, lr=LR, momentum=momentum, nesterov=nesterov)
    ours = bind(whole_layout(torch.float64), SgdOptions(momentum, nesterov), weight_decay=decay)
    ours.scatter([weight.detach() for weight in weights], "weight")
    for step in range(STEPS):
        gradients = draw(step + 1, dtype=torch.float64)
        ours.step(gradients, LR)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient.clone()
        theirs.step()
    for found, weight in zip(ours.gather(), weights, strict=True):
        torch.testing.assert_close(found, weight.detach(), rtol=1e-12, atol=1e-14)


def test_keeps_a_buffer_only_where_there_is_momentum() -> None:
    assert SgdOptions(0.9).moment_kinds == ("momentum_buffer",)
    plain = bind(whole_layout(), SgdOptions(0.0))
    assert plain.optimizer.rule.moment_kinds == ()
    assert all(not state for state in plain.optimizer.state.values())
