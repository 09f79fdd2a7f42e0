"""Adafactor against the one of `transformers`, in float64, whole and cut anywhere."""

import pytest
import torch
import torch.distributed as dist
from transformers.optimization import Adafactor

from pretrain.errors import UsageError
from pretrain.optim import AdafactorOptions, Skip, SpikeRule
from pretrain.sharding import ParameterInfo, Shard, ShardLayout, Slice
from tests.optim.cuts import PARAMETERS, TOTAL, Bound, bind, cut_layout, draw, flat_shard, whole_layout
from tests.worlds import run_ranks

STEPS, LR, DECAY = 12, 0.02, 0.05


def theirs_after(steps: int, scales: list[float]) -> list[torch.Tensor]:
    weights = [torch.nn.Parameter(weight) for weight in draw(0, dtype=torch.float64)]
    groups = [
        {"params": [weight for weight in weights if weight.dim() > 1], "weight_decay": DECAY},
        {"params": [weight for weight in weights if weight.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = Adafactor(groups, lr=LR, relative_step=False, scale_parameter=True, warmup_init=False)
    for step in range(steps):
        for weight, gradient in zip(weights, gradients_of(step, scales[step]), strict=True):
            weight.grad = gradient
        optimizer.step()
    return [weight.detach() for weight in weights]


def gradients_of(step: int, scale: float) -> list[torch.Tensor]:
    return draw(step + 1, scale, torch.float64)


# The tenfold gradient is one whose update is clipped.
SCALES = [1.0] * 6 + [10.0] + [0.3] * (STEPS - 7)


def trained(bound: Bound, steps: int = STEPS) -> Bound:
    bound.scatter(draw(0, dtype=torch.float64), "weight")
    for step in range(steps):
        bound.step(gradients_of(step, SCALES[step]), LR)
    return bound


def test_equals_transformers_in_float64() -> None:
    ours = trained(bind(whole_layout(torch.float64), AdafactorOptions(), weight_decay=DECAY))
    for found, weight in zip(ours.gather(), theirs_after(STEPS, SCALES), strict=True):
        torch.testing.assert_close(found, weight, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("cuts", [(), (500, 1353), (7, 40, 42, 1354, 1380)])
@pytest.mark.parametrize("padding", [0, 3])
def test_no_cut_shows(cuts: tuple[int, ...], padding: int) -> None:
    """In float32; cuts inside rows, at their ends and inside vectors, with NaN where nothing lies."""
    ours = trained(bind(cut_layout(cuts, padding), AdafactorOptions(), weight_decay=DECAY))
    for found, weight in zip(ours.gather(), theirs_after(STEPS, SCALES), strict=True):
        torch.testing.assert_close(found.double(), weight, rtol=2e-5, atol=2e-6)


def test_a_call_for_some_parameters_leaves_the_averages_of_the_others() -> None:
    """As stage 3 steps one sub-group after another."""
    ends = (PARAMETERS[0].numel, TOTAL)
    layout = ShardLayout(PARAMETERS, (flat_shard(0, ends[0], 0), flat_shard(ends[0], TOTAL, 0)))
    at_once, in_turn = (bind(each, AdafactorOptions()) for each in (cut_layout((ends[0],)), layout))
    for bound in (at_once, in_turn):
        bound.scatter(draw(0), "weight")
    for step in range(3):
        gradients = draw(step + 1)
        at_once.step(gradients, LR)
        in_turn.scatter(gradients, "grad")
        kept = [shard.tensor.grad for shard in in_turn.layout.shards]
        in_turn.optimizer.begin(LR, torch.tensor(1.0))
        for turn, shard in enumerate(in_turn.layout.shards):
            for other, gradient in enumerate(kept):
                in_turn.layout.shards[other].tensor.grad = gradient if other == turn else None
            in_turn.optimizer.step()
            shard.tensor.grad = kept[turn]
        in_turn.optimizer.finish()
    for whole, by_turns in zip(at_once.gather(), in_turn.gather(), strict=True):
        assert torch.equal(whole, by_turns)
    for kind, vector in at_once.optimizer.vectors.items():
        assert torch.equal(in_turn.optimizer.vectors[kind], vector), kind


def scaled_step(bound: Bound, gradients: list[torch.Tensor]) -> Skip | None:
    """Of gradients that come with a loss scale."""
    bound.scatter([128.0 * gradient for gradient in gradients], "grad")
    bound.optimizer.begin(LR, grad_scale=128.0)
    bound.optimizer.step()
    return bound.optimizer.finish()[1]


def test_a_loss_scale_is_undone_and_skipped_steps_leave_the_averages() -> None:
    """Without a trace: an outlier and an overflow between two updates, and a scale that is a power of two."""
    plain, other = (bind(cut_layout((500,)), AdafactorOptions(), weight_decay=DECAY) for _ in range(2))
    other.optimizer.spikes = SpikeRule(5.0, 3)
    for bound in (plain, other):
        bound.scatter(draw(0), "weight")
    for step in range(6):
        if step == 4:
            for factor, reason in ((100.0, "spike"), (float("inf"), "not finite")):
                skip = scaled_step(other, [factor * gradient for gradient in draw(99)])
                assert skip is not None and skip.reason == reason
        plain.step(draw(step + 1), LR)
        assert scaled_step(other, draw(step + 1)) is None
    for ours, theirs in zip(other.gather(), plain.gather(), strict=True):
        assert torch.equal(ours, theirs)
    for kind, vector in plain.optimizer.vectors.items():
        assert torch.equal(other.optimizer.vectors[kind], vector), kind
    assert other.optimizer.applied_steps == plain.optimizer.applied_steps == 6


def half_of_a_replica() -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """On a rank of four: one of two halves of everything, of which there are two replicas."""
    rank = dist.get_rank()
    groups = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    ends = (0, 700, TOTAL)
    shard = flat_shard(ends[rank % 2], ends[rank % 2 + 1], 1)
    layout = ShardLayout(PARAMETERS, (shard,), groups[rank // 2], rank // 2, torch.device("cpu"))
    bound = trained(bind(layout, AdafactorOptions(), weight_decay=DECAY))
    return bound.gather(), dict(bound.optimizer.vectors)


def test_sums_go_over_a_replica_and_every_rank_holds_the_averages_whole() -> None:
    whole = trained(bind(whole_layout(), AdafactorOptions(), weight_decay=DECAY))
    ranks = run_ranks(half_of_a_replica, 4)
    for replica in (ranks[:2], ranks[2:]):
        for index, expected in enumerate(whole.gather()):
            pieces = [weights[index] for weights, _ in replica]
            found = torch.where(pieces[0].isnan(), pieces[1], pieces[0])
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    for _, vectors in ranks:
        for kind, vector in whole.optimizer.vectors.items():
            torch.testing.assert_close(vectors[kind], vector, rtol=1e-5, atol=0)
            assert torch.equal(vectors[kind], ranks[0][1][kind]), kind


def test_a_third_axis_is_refused_by_name() -> None:
    info = ParameterInfo("kernel", (2, 3, 4))
    layout = ShardLayout((info,), (Shard(torch.zeros(24), (Slice(0, 0, 0, 24),)),))
    with pytest.raises(UsageError, match=r"adafactor .* parameter kernel has the shape \[2, 3, 4\]"):
        bind(layout, AdafactorOptions())
