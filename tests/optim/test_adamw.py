"""AdamW against torch's, in float64, with the same exclusions from weight decay."""

import pytest
import torch

from pretrain.optim import AdamWOptions
from tests.optim.cuts import bind, draw, whole_layout

STEPS, DECAY, LR = 15, 0.05, 0.01


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.8, 0.95)])
def test_equals_torch(betas: tuple[float, float]) -> None:
    weights = [torch.nn.Parameter(weight) for weight in draw(0, dtype=torch.float64)]
    groups = [
        {"params": [weight for weight in weights if weight.dim() > 1], "weight_decay": DECAY},
        {"params": [weight for weight in weights if weight.dim() <= 1], "weight_decay": 0.0},
    ]
    theirs = torch.optim.AdamW(groups, lr=LR, betas=betas, eps=1e-6)
    ours = bind(whole_layout(torch.float64), AdamWOptions(*betas, eps=1e-6), weight_decay=DECAY)
    ours.scatter([weight.detach() for weight in weights], "weight")
    for step in range(STEPS):
        gradients = draw(step + 1, dtype=torch.float64)
        ours.step(gradients, LR)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient.clone()
        theirs.step()
    for found, weight in zip(ours.gather(), weights, strict=True):
        torch.testing.assert_close(found, weight.detach(), rtol=1e-12, atol=1e-14)


def test_without_bias_correction_the_first_step_is_larger() -> None:
    """From zero moments m / sqrt(v) is (1 - beta1) / sqrt(1 - beta2) for every element: 0.1 / sqrt(0.001)."""
    ours = bind(whole_layout(torch.float64), AdamWOptions(eps=1e-30, bias_correction=False), weight_decay=0.0)
    gradients = draw(1, dtype=torch.float64)
    ours.step(gradients, LR)
    for found, gradient in zip(ours.gather(), gradients, strict=True):
        torch.testing.assert_close(found, -LR * 0.1 / 0.001**0.5 * gradient.sign(), rtol=1e-9, atol=0.0)
