"""Outliers among gradient norms: what is one, and that nothing happens in their steps, on any rank."""

import pytest
import torch
import torch.distributed as dist

from pretrain.optim import LambOptions, Skip, SkipReason, SpikeRule
from pretrain.sharding import ShardLayout
from tests.optim.cuts import PARAMETERS, TOTAL, Bound, bind, cut_layout, draw, flat_shard
from tests.worlds import run_ranks

RULE = SpikeRule(factor=3.0, window=4)
LR = 0.02
SPIKE_AT = 5  # index of the step with ten times the gradient


def test_a_spike_is_over_so_many_medians() -> None:
    recent = [1.0, 100.0, 3.0, 5.0]  # median 4
    assert RULE.found(12.0, recent) is None
    found = RULE.found(12.1, recent)
    assert found is not None and found.reason == "spike"
    assert "12.1" in found.detail and "3 times 4" in found.detail


def test_nothing_is_a_spike_before_the_window_is_full() -> None:
    assert RULE.found(1e9, [1.0, 1.0, 1.0]) is None
    assert RULE.found(1e9, []) is None


def spiking(bound: Bound) -> list[SkipReason | None]:
    """Why each step was skipped, if it was."""
    bound.optimizer.spikes = RULE
    bound.scatter(draw(0, 0.1), "weight")
    scales = [10.0 if step == SPIKE_AT else 1.0 for step in range(8)]
    skips = [bound.step(draw(step + 1, scale), LR)[1] for step, scale in enumerate(scales)]
    return [skip and skip.reason for skip in skips]


def test_a_spike_changes_nothing() -> None:
    bound, other = bind(cut_layout((700,), 2), LambOptions()), bind(cut_layout((700,), 2), LambOptions())
    skipped, norms = spiking(bound), list[float]()
    assert skipped == ["spike" if step == SPIKE_AT else None for step in range(8)]
    assert bound.optimizer.applied_steps == 7
    other.scatter(draw(0, 0.1), "weight")
    for step in range(8):
        if step != SPIKE_AT:
            norms.append(other.step(draw(step + 1), LR)[0])
    assert bound.optimizer.recent_norms == norms[-RULE.window :]
    for ours, theirs in zip(bound.gather(), other.gather(), strict=True):
        assert torch.equal(ours, theirs)
    for kind in ("exp_avg", "exp_avg_sq"):
        for ours, theirs in zip(bound.optimizer.moments(kind), other.optimizer.moments(kind), strict=True):
            assert torch.equal(ours, theirs)


def test_a_lasting_change_is_counted_until_an_update() -> None:
    bound = bind(cut_layout((700,)), LambOptions())
    bound.optimizer.spikes = RULE
    bound.scatter(draw(0, 0.1), "weight")
    scales = [1.0] * 4 + [10.0] * 9 + [float("inf"), 10.0, 1.0, 10.0]
    skips = [bound.step(draw(step + 1, scale), LR)[1] for step, scale in enumerate(scales)]
    # Neither the window nor what is not finite ends the row.
    assert [skip and skip.in_row for skip in skips] == [None] * 4 + [*range(1, 10), 0, 10, None, 1]
    assert bound.optimizer.applied_steps == 5


def test_without_a_rule_none_is_skipped_and_nothing_remembered() -> None:
    bound = bind(cut_layout((700,)), LambOptions())
    bound.scatter(draw(0, 0.1), "weight")
    assert not any(bound.step(draw(step, 10.0**step), LR)[1] for step in range(6))
    assert bound.optimizer.recent_norms == []


def test_a_norm_that_is_not_finite_is_not_remembered() -> None:
    bound = bind(cut_layout((700,)), LambOptions())
    bound.optimizer.spikes = RULE
    bound.scatter(draw(0, 0.1), "weight")
    bound.optimizer.recent_norms = [1e9] * RULE.window
    norm, _ = bound.step(draw(1), LR)
    remembered = [1e9] * (RULE.window - 1) + [norm]
    for bad in (float("inf"), float("nan")):
        skip = bound.step(draw(2, bad), LR)[1]
        assert skip is not None and skip.reason == "not finite"
        assert bound.optimizer.recent_norms == remembered
    bound.optimizer.begin(LR)
    assert bound.optimizer.abandon()[1].reason == "not finite"
    assert bound.optimizer.recent_norms == remembered


def test_a_loss_scale_is_no_spike() -> None:
    """What is held against the last norms, and remembered, is the norm of the gradients without it."""
    plain, scaled = bind(cut_layout((700,)), LambOptions()), bind(cut_layout((700,)), LambOptions())
    spiking(plain)
    scaled.optimizer.spikes = RULE
    scaled.scatter(draw(0, 0.1), "weight")
    for step in range(8):
        scale = 2.0**step
        scaled.scatter(draw(step + 1, scale * (10.0 if step == SPIKE_AT else 1.0)), "grad")
        scaled.optimizer.begin(LR, grad_scale=scale)
        scaled.optimizer.step()
        assert (scaled.optimizer.finish()[1] is not None) == (step == SPIKE_AT)
    assert scaled.optimizer.recent_norms == pytest.approx(plain.optimizer.recent_norms, rel=1e-6)


def spiking_rank() -> tuple[list[Skip | None], list[float]]:
    """The whole spike lies in what rank 1 holds."""
    ends = (0, 1360, TOTAL)
    rank = dist.get_rank()
    layout = ShardLayout(PARAMETERS, (flat_shard(ends[rank], ends[rank + 1], 1),), group=dist.group.WORLD)
    bound = bind(layout, LambOptions())
    bound.optimizer.spikes = RULE
    bound.scatter(draw(0, 0.1), "weight")
    skipped = []
    for step in range(6):
        gradients = draw(step + 1)
        if step == SPIKE_AT:
            gradients[1] *= 100
        skipped.append(bound.step(gradients, LR)[1])
    return skipped, bound.optimizer.recent_norms


def test_ranks_decide_alike() -> None:
    one, other = run_ranks(spiking_rank, 2)
    assert one == other
    assert [skip is not None for skip in one[0]] == [False] * 5 + [True]


@pytest.mark.parametrize("told", [False, True])
def test_sub_groups_of_a_spike_are_all_left_alone(told: bool) -> None:
    """As ZeRO-3 steps: the norm is told before the first of several calls."""
    bound = bind(cut_layout((700,)), LambOptions())
    bound.optimizer.spikes = RULE
    bound.optimizer.recent_norms = [1.0] * 4
    bound.scatter(draw(0, 0.1), "weight")
    before = [weight.clone() for weight in bound.gather()]
    bound.scatter(draw(1), "grad")
    bound.optimizer.begin(LR, torch.tensor(30.0, dtype=torch.float64) if told else None)
    bound.optimizer.step()
    bound.optimizer.step()
    assert bound.optimizer.finish()[1]
    assert all(torch.equal(one, other) for one, other in zip(bound.gather(), before, strict=True))
    assert bound.optimizer.recent_norms == [1.0] * 4
