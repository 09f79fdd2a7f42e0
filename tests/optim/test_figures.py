"""What LAMB says of each parameter, against float64, under any cut."""

import math
from dataclasses import replace

import pytest
import torch

from pretrain.optim import AdamWOptions, LambOptions, Rule, SgdOptions
from pretrain.sharding import ShardLayout
from tests.optim.cuts import PARAMETERS, Bound, bind, cut_layout, draw, whole_layout

LR, DECAY = 0.02, 0.1
WEIGHTS = draw(0, 0.1)
# From zero moments Adam's direction is the sign of the gradient, up to eps.
GRADIENTS = draw(1)
UPDATES = [
    gradient.double().sign() + (DECAY * weight.double() if weight.dim() > 1 else 0.0)
    for gradient, weight in zip(GRADIENTS, WEIGHTS, strict=True)
]
RATIOS = {
    info.name: float(weight.double().norm() / update.norm())
    for info, weight, update in zip(PARAMETERS, WEIGHTS, UPDATES, strict=True)
}


def stepped(layout: ShardLayout, rule: Rule) -> Bound:
    bound = bind(layout, rule, weight_decay=DECAY)
    bound.scatter(WEIGHTS, "weight")
    bound.step(GRADIENTS, LR)
    return bound


@pytest.mark.parametrize("cuts", [None, (700,), (1352, 1353)], ids=str)
def test_norms_and_ratios(cuts: tuple[int, ...] | None) -> None:
    layout = whole_layout() if cuts is None else cut_layout(cuts, 2)
    figures = stepped(layout, LambOptions(eps=1e-12)).optimizer.parameter_figures()
    assert figures["trust_ratio"] == pytest.approx(RATIOS, rel=1e-5)
    for kind, tensors in (("weight_norm", WEIGHTS), ("update_norm", UPDATES)):
        assert list(figures[kind].values()) == pytest.approx(
            [float(x.double().norm()) for x in tensors], rel=1e-5
        )
    assert list(figures["trust_clamped"]) == [info.name for info in PARAMETERS]
    assert set(figures["trust_clamped"].values()) == {0.0}


def test_clamped_are_those_whose_ratio_a_bound_changed() -> None:
    low, high = sorted(RATIOS.values())[1:3]
    rule = LambOptions(eps=1e-12, min_trust=low * 1.01, max_trust=high * 1.01)
    figures = stepped(whole_layout(), rule).optimizer.parameter_figures()
    expected = {name: float(not low < ratio <= high * 1.01) for name, ratio in RATIOS.items()}
    assert 0 < sum(expected.values()) < len(expected)
    assert figures["trust_clamped"] == expected
    bounded = {name: min(max(ratio, rule.min_trust), rule.max_trust) for name, ratio in RATIOS.items()}
    assert figures["trust_ratio"] == pytest.approx(bounded, rel=1e-5)


@pytest.mark.parametrize("off", ["trust_without_decay", "trust_1d"])
def test_where_there_is_no_trust_ratio_it_is_one(off: str) -> None:
    rule = replace(LambOptions(max_trust=1e-6), **{off: False})
    figures = stepped(whole_layout(), rule).optimizer.parameter_figures()
    vectors = [info.name for info in PARAMETERS if len(info.shape) < 2]
    assert [figures["trust_ratio"][name] for name in vectors] == [1.0] * len(vectors)
    assert figures["trust_clamped"] == {info.name: float(info.name not in vectors) for info in PARAMETERS}


def test_sub_groups_are_put_together() -> None:
    """As ZeRO-3 steps; the cut lies between two parameters, so that each is in one sub-group."""
    together = stepped(cut_layout((33 * 41,)), LambOptions()).optimizer.parameter_figures()
    bound = bind(cut_layout((33 * 41,)), LambOptions(), weight_decay=DECAY)
    bound.scatter(WEIGHTS, "weight")
    bound.scatter(GRADIENTS, "grad")
    norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in GRADIENTS))
    held = [shard.tensor.grad for shard in bound.layout.shards]
    bound.optimizer.begin(LR, torch.tensor(norm, dtype=torch.float64))
    for shard, gradient in zip(bound.layout.shards, held, strict=True):
        for other in bound.layout.shards:
            other.tensor.grad = None
        shard.tensor.grad = gradient
        bound.optimizer.step()
    bound.optimizer.finish()
    assert bound.optimizer.parameter_figures() == together


def test_a_skipped_step_and_other_rules_say_nothing() -> None:
    bound = stepped(whole_layout(), LambOptions())
    bound.step([gradient * float("nan") for gradient in GRADIENTS], LR)
    assert bound.optimizer.parameter_figures() == {}
    bound.step(GRADIENTS, LR)
    assert bound.optimizer.parameter_figures() != {}
    bound.optimizer.begin(LR)
    bound.optimizer.abandon()
    assert bound.optimizer.parameter_figures() == {}
    for rule in (AdamWOptions(), SgdOptions(0.0), SgdOptions(0.9), SgdOptions(0.9, nesterov=True)):
        assert stepped(whole_layout(), rule).optimizer.parameter_figures() == {}
