"""LAMB's variants against float64 written from the publications, and against another library, on whole parameters."""

import math
from dataclasses import dataclass, replace
from typing import get_args

import pytest
import torch
from pytorch_optimizer import Lamb
from torch import Tensor

from pretrain.optim import LambOptions
from pretrain.optim.lamb import LambVariant
from tests.optim.cuts import bind, draw, whole_layout

BETA1, BETA2, EPS, DECAY, LR = 0.9, 0.999, 1e-6, 0.01, 0.02
STEPS = 12
OPTIONS = {"beta1": BETA1, "beta2": BETA2, "eps": EPS}


@dataclass
class Judge:
    """LAMB in float64; subclasses say what a publication does otherwise."""

    weights: list[Tensor]
    steps: int = 0

    def __post_init__(self) -> None:
        self.first = [torch.zeros_like(weight) for weight in self.weights]
        self.second = [torch.zeros_like(weight) for weight in self.weights]

    def step(self, gradients: list[Tensor]) -> None:
        self.steps += 1
        gradients = self.prepared(gradients)
        for weight, gradient, m, v in zip(self.weights, gradients, self.first, self.second, strict=True):
            decay = DECAY if weight.dim() > 1 else 0.0
            m.copy_(BETA1 * m + (1 - BETA1) * gradient)
            v.copy_(BETA2 * v + (1 - BETA2) * gradient**2)
            update = self.direction(m, v) + decay * weight
            norms = float(weight.norm()), float(update.norm())
            trust = self.trust(*norms, decay) if min(norms) > 0 else 1.0
            weight -= LR * trust * update

    def prepared(self, gradients: list[Tensor]) -> list[Tensor]:
        return gradients

    def direction(self, m: Tensor, v: Tensor) -> Tensor:
        """Algorithm 2 of the paper: m_t / (1 - beta1^t) over sqrt(v_t / (1 - beta2^t)) + eps."""
        return (m / (1 - BETA1**self.steps)) / ((v / (1 - BETA2**self.steps)).sqrt() + EPS)

    def trust(self, weight_norm: float, update_norm: float, decay: float) -> float:
        return weight_norm / update_norm


class NvidiaJudge(Judge):
    """FusedLAMB: gradients over their global norm where that exceeds 1; no ratio where there is no decay."""

    def prepared(self, gradients: list[Tensor]) -> list[Tensor]:
        norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients))
        return [gradient / max(norm, 1.0) for gradient in gradients]

    def trust(self, weight_norm: float, update_norm: float, decay: float) -> float:
        return weight_norm / update_norm if decay else 1.0


class MatricesJudge(Judge):
    """Adam's step for biases and normalization weights, LAMB's for the rest."""

    def trust(self, weight_norm: float, update_norm: float, decay: float) -> float:
        return weight_norm / update_norm if decay else 1.0


class DeepSpeedJudge(Judge):
    """DeepSpeed's kernel as its BERT tutorial sets it: no bias correction, coefficient in [0.01, 0.3]."""

    def direction(self, m: Tensor, v: Tensor) -> Tensor:
        return m / (v.sqrt() + EPS)

    def trust(self, weight_norm: float, update_norm: float, decay: float) -> float:
        return min(max(weight_norm / update_norm, 0.01), 0.3)


JUDGES: dict[LambVariant, type[Judge]] = {
    "paper": Judge,
    "nvidia": NvidiaJudge,
    "deepspeed": DeepSpeedJudge,
}


def trained(rule: LambOptions, judge: type[Judge], max_grad_norm: float) -> float:
    """The largest relative distance of a parameter after some steps from weights of very unlike sizes."""
    start = draw(0, 0.02)
    start[0] *= 100
    start[2] *= 1e-4
    ours = bind(whole_layout(), rule, weight_decay=DECAY, max_grad_norm=max_grad_norm)
    ours.scatter(start, "weight")
    theirs = judge([weight.double() for weight in start])
    for step in range(STEPS):
        gradients = draw(step + 1, 0.3 * (step % 3 + 0.1))
        ours.step(gradients, LR)
        theirs.step([gradient.double() for gradient in gradients])
    pairs = zip(ours.gather(), theirs.weights, strict=True)
    return max(float((found.double() - weight).norm() / weight.norm()) for found, weight in pairs)


@pytest.mark.parametrize("name", get_args(LambVariant))
def test_variant_equals_float64(name: LambVariant) -> None:
    found = trained(LambOptions.variant(name, **OPTIONS), JUDGES[name], 1.0 if name == "nvidia" else 0.0)
    print(f"{name}: {found:.1e}")
    assert found < 2e-6


@pytest.mark.parametrize("name", get_args(LambVariant))
@pytest.mark.parametrize("other", get_args(LambVariant))
def test_variants_are_told_apart(name: LambVariant, other: LambVariant) -> None:
    if name != other:
        rule = LambOptions.variant(name, **OPTIONS)
        assert trained(rule, JUDGES[other], 1.0 if name == "nvidia" else 0.0) > 1e-3


@pytest.mark.parametrize("clipped", [False, True])
def test_equals_another_library(clipped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """pytorch-optimizer's LAMB, in float64, where the two mean the same: no bias correction, decay of everything.

    It adds eps to the norm that it divides by, and bounds the weight's norm at 10, which is lifted here.
    """
    monkeypatch.setattr(Lamb, "clamp", math.inf)
    start = draw(0, 0.02)
    start[0] *= 100
    rule = replace(LambOptions.variant("paper", **OPTIONS), bias_correction=False)
    ours = bind(
        whole_layout(), rule, weight_decay=DECAY, max_grad_norm=1.0 if clipped else 0.0, decay_1d=True
    )
    ours.scatter(start, "weight")
    theirs = [torch.nn.Parameter(weight.double()) for weight in start]
    other = Lamb(
        theirs,
        lr=LR,
        betas=(BETA1, BETA2),
        eps=EPS,
        weight_decay=DECAY,
        weight_decouple=False,
        pre_norm=clipped,
        max_grad_norm=1.0,
        adam_debias=True,  # leaves the rate alone, which otherwise it divides by 1 - beta1^t
    )
    for step in range(STEPS):
        gradients = draw(step + 1, 0.3 * (step % 3 + 0.1))
        ours.step(gradients, LR)
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = gradient.double()
        other.step()
    pairs = zip(ours.gather(), [each.detach() for each in theirs], strict=True)
    found = max(float((mine.double() - weight).norm() / weight.norm()) for mine, weight in pairs)
    print(f"{found:.1e}")
    assert found < 2e-6


def test_vectors_without_a_trust_ratio() -> None:
    assert (
        trained(replace(LambOptions.variant("paper", **OPTIONS), trust_1d=False), MatricesJudge, 0.0) < 2e-6
    )
    assert trained(replace(LambOptions.variant("paper", **OPTIONS), trust_1d=False), Judge, 0.0) > 1e-3


def test_trust_ratio_is_one_where_a_norm_is_zero() -> None:
    norms = torch.tensor([0.0, 0.0, 2.0, 3.0], dtype=torch.float64)
    others = torch.tensor([0.0, 4.0, 0.0, 4.0], dtype=torch.float64)
    assert LambOptions().trust_ratios(norms, others).tolist() == [1.0, 1.0, 1.0, 0.75]
    bounded = LambOptions(min_trust=0.8, max_trust=0.9)
    assert bounded.trust_ratios(norms, others).tolist() == [1.0, 1.0, 1.0, 0.8]
