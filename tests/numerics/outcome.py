"""What a course of training steps comes to, and how far two of them lie apart."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Outcome:
    """Loss and gradient norm of each step, and the master weights after the last."""

    losses: list[float]
    grad_norms: list[float]
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class Deviation:
    """The largest relative differences of loss and gradient norm over the steps; that of each parameter after
    the last, in the L2 norm."""

    loss: float
    grad_norm: float
    weights: dict[str, float]

    @property
    def farthest(self) -> str:
        """The parameter that lies farthest off."""
        return max(self.weights, key=lambda name: self.weights[name])


def joined(ranks: Sequence[Outcome]) -> Outcome:
    """The pieces of all ranks put together; what several hold must be the same, and nothing may be missing."""
    for outcome in ranks[1:]:
        assert (outcome.losses, outcome.grad_norms) == (ranks[0].losses, ranks[0].grad_norms)
    weights = {}
    for name in ranks[0].weights:
        pieces = torch.stack([outcome.weights[name] for outcome in ranks])
        held = ~pieces.isnan()
        lowest = pieces.masked_fill(~held, torch.inf).amin(0)
        assert held.any(0).all(), f"{name} is not whole"
        assert torch.equal(lowest, pieces.masked_fill(~held, -torch.inf).amax(0)), f"{name} differs"
        weights[name] = lowest
    return Outcome(ranks[0].losses, ranks[0].grad_norms, weights)


def relative(expected: Sequence[float], found: Sequence[float]) -> float:
    """The largest relative difference."""
    return max(abs(b - a) / abs(a) for a, b in zip(expected, found, strict=True))


def deviation(judge: Outcome, outcome: Outcome) -> Deviation:
    assert judge.weights.keys() == outcome.weights.keys()
    weights = {
        name: float((outcome.weights[name].double() - weight.double()).norm() / weight.double().norm())
        for name, weight in judge.weights.items()
        # Softmax takes no notice of a key's bias: its gradient is 0 but for rounding, which Adam's ratio enlarges.
        if not name.endswith("key.bias")
    }
    return Deviation(
        relative(judge.losses, outcome.losses), relative(judge.grad_norms, outcome.grad_norms), weights
    )
