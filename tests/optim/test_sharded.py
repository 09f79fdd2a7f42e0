"""The optimizer over slices is the optimizer over whole parameters, whatever the cut and the padding."""

import pytest
import torch
import torch.distributed as dist

from pretrain.kernels.kind import KernelKind
from pretrain.optim import AdamWOptions, LambOptions, Rule, SgdOptions, Skip
from pretrain.sharding import ShardLayout
from tests.optim.cuts import (
    PARAMETERS,
    TOTAL,
    Bound,
    bind,
    cut_layout,
    draw,
    flat_shard,
    force_kernels,
    whole_layout,
)
from tests.worlds import run_ranks

LR, MAX_GRAD_NORM, STEPS = 0.02, 30.0, 6
RULES: tuple[Rule, ...] = (
    LambOptions(),
    LambOptions(trust_without_decay=False),
    AdamWOptions(),
    SgdOptions(0.9, nesterov=True),
)
# Inside a row, at a row's end, next to a parameter's last element, and one that leaves a shard of one element.
CUTS = ((700,), (41,), (TOTAL - 1,), (1352, 1353, 1354, 1400))


def rounding(rule: Rule) -> float:
    """Of a weight. SGD's steps are of the gradient's size, not the rate's, and cancel."""
    return 1e-7 if isinstance(rule, SgdOptions) else 1e-8


def start(layout: ShardLayout, rule: Rule) -> Bound:
    bound = bind(layout, rule, max_grad_norm=MAX_GRAD_NORM)
    bound.scatter(draw(0, 0.1), "weight")
    return bound


def trained(bound: Bound) -> list[float]:
    """The gradient norms of some steps, some of them over MAX_GRAD_NORM."""
    return [bound.step(draw(step + 1, 0.5 + step / 4), LR)[0] for step in range(STEPS)]


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("cuts", CUTS, ids=str)
@pytest.mark.parametrize("rule", RULES, ids=["lamb", "lamb-nvidia", "adamw", "sgd"])
def test_cut_and_padding_do_not_show(rule: Rule, cuts: tuple[int, ...], padding: int) -> None:
    whole, cut = start(whole_layout(), rule), start(cut_layout(cuts, padding), rule)
    norms = trained(whole)
    assert min(norms) < MAX_GRAD_NORM < max(norms)
    assert trained(cut) == pytest.approx(norms, rel=1e-6)
    for kind in rule.moment_kinds:
        pairs = zip(
            cut.gather(cut.optimizer.moments(kind)), whole.gather(whole.optimizer.moments(kind)), strict=True
        )
        for ours, theirs in pairs:
            torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=10 * rounding(rule))
    for ours, theirs in zip(cut.gather(), whole.gather(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=rounding(rule))


def test_reported_norm_is_that_before_clipping() -> None:
    bound, gradients = start(whole_layout(), AdamWOptions()), draw(1, 2.0)
    norm, skip = bound.step(gradients, LR)
    assert skip is None
    assert norm == pytest.approx(float(torch.cat([g.flatten() for g in gradients]).double().norm()), rel=1e-6)
    (exp_avg, *_) = bound.gather(bound.optimizer.moments("exp_avg"))
    torch.testing.assert_close(exp_avg, 0.1 * gradients[0] * MAX_GRAD_NORM / norm)


def test_steps_of_one_sub_group_at_a_time() -> None:
    """As ZeRO-3 steps: the norm is told before, and only one shard has a gradient in each call."""
    together, apart = start(cut_layout((700,)), LambOptions()), start(cut_layout((700,)), LambOptions())
    gradients = draw(1, 2.0)
    norm, _ = together.step(gradients, LR)
    apart.scatter(gradients, "grad")
    held = [shard.tensor.grad for shard in apart.layout.shards]
    apart.optimizer.begin(LR, torch.tensor(norm, dtype=torch.float64))
    for index, shard in enumerate(apart.layout.shards):
        for other in apart.layout.shards:
            other.tensor.grad = None
        shard.tensor.grad = held[index]
        apart.optimizer.step()
    assert apart.optimizer.finish() == (norm, None)
    # `large` lies in both sub-groups, so its trust ratio is that of neither; the others are whole in one.
    for ours, theirs in list(zip(apart.gather(), together.gather(), strict=True))[1:]:
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("rule", RULES, ids=["lamb", "lamb-nvidia", "adamw", "sgd"])
def test_offloaded_sub_groups_are_stepped_once(rule: Rule) -> None:
    """As ZeRO-3 steps with offload: all shards have a gradient, and `step` is called once for each of them."""
    once, often = start(cut_layout((700,), 2), rule), start(cut_layout((700,), 2), rule)
    for seed in (1, 2):
        expected = once.step(draw(seed, 2.0), LR)
        often.scatter(draw(seed, 2.0), "grad")
        often.optimizer.begin(LR)
        for _ in often.layout.shards:
            often.optimizer.step()
        assert len(often.layout.shards) > 1
        assert often.optimizer.finish() == expected
    assert often.optimizer.parameter_figures() == once.optimizer.parameter_figures()
    for ours, theirs in zip(often.gather(), once.gather(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kernels", ["numba", "torch"])
@pytest.mark.parametrize("told", [False, True], ids=["own norm", "told"])
@pytest.mark.parametrize("rule", RULES, ids=["lamb", "lamb-nvidia", "adamw", "sgd"])
def test_scaled_gradients_are_unscaled_first(
    rule: Rule, told: bool, kernels: KernelKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Norm, clipping and moments are those of the gradients themselves; a power of two loses no bit."""
    force_kernels(monkeypatch, kernels)
    plain, scaled = start(cut_layout((700,), 2), rule), start(cut_layout((700,), 2), rule)
    norms = []
    for seed, size in ((1, 2.0), (2, 0.1)):
        norm, _ = plain.step(draw(seed, size), LR)
        scaled.scatter([gradient * 2.0**16 for gradient in draw(seed, size)], "grad")
        given = torch.tensor(norm * 2.0**16, dtype=torch.float64) if told else None
        scaled.optimizer.begin(LR, given, 2.0**16)
        scaled.optimizer.step()
        assert scaled.optimizer.finish() == (norm, None)
        norms.append(norm)
    assert norms[0] > MAX_GRAD_NORM > norms[1]
    for kind in (None, *rule.moment_kinds):
        pairs = [
            each.gather(None if kind is None else each.optimizer.moments(kind)) for each in (scaled, plain)
        ]
        for ours, theirs in zip(*pairs, strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_gradient_that_is_not_finite_changes_nothing(bad: float) -> None:
    touched, untouched = (
        start(cut_layout((700,), 2), LambOptions()),
        start(cut_layout((700,), 2), LambOptions()),
    )
    for bound in (touched, untouched):
        bound.step(draw(1), LR)
    poisoned = draw(2)
    poisoned[1][-1] = bad
    norm, skip = touched.step(poisoned, LR)
    assert skip is not None and skip.reason == "not finite"
    assert not torch.isfinite(torch.tensor(norm))
    assert touched.optimizer.applied_steps == 1
    for bound in (touched, untouched):
        bound.step(draw(3), LR)
    for ours, theirs in zip(touched.gather(), untouched.gather(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("rule", RULES, ids=["lamb", "lamb-nvidia", "adamw", "sgd"])
def test_a_scale_without_a_finite_inverse_changes_nothing(rule: Rule) -> None:
    """1 / 1e-40 is above the largest float32, 3.4e38, though the norm itself is an ordinary number."""
    bound, untouched = start(cut_layout((700,), 2), rule), start(cut_layout((700,), 2), rule)
    bound.scatter([gradient * 1e-40 for gradient in draw(1)], "grad")
    bound.optimizer.begin(LR, torch.tensor(2e-40, dtype=torch.float64), 1e-40)
    bound.optimizer.step()
    norm, skip = bound.optimizer.finish()
    assert (norm, skip) == (
        2.0,
        Skip("not finite", "the inverse of the gradients' scale 1e-40 is not finite"),
    )
    for ours, theirs in zip(bound.gather(), untouched.gather(), strict=True):
        assert torch.equal(ours, theirs)


def test_weight_decay_leaves_vectors_alone() -> None:
    """With gradients of 0 AdamW only decays: by 1 - lr * decay in each step."""
    bound, before = bind(whole_layout(), AdamWOptions(), weight_decay=0.25), draw(0)
    bound.scatter(before, "weight")
    bound.step([torch.zeros_like(weight) for weight in before], 0.5)
    for info, found, weight in zip(PARAMETERS, bound.gather(), before, strict=True):
        torch.testing.assert_close(found, weight * (0.875 if len(info.shape) == 2 else 1.0))


def test_weight_decay_of_vectors_on_request() -> None:
    bound, before = bind(whole_layout(), AdamWOptions(), weight_decay=0.25, decay_1d=True), draw(0)
    bound.scatter(before, "weight")
    bound.step([torch.zeros_like(weight) for weight in before], 0.5)
    for found, weight in zip(bound.gather(), before, strict=True):
        torch.testing.assert_close(found, weight * 0.875)


def test_an_engine_that_steps_otherwise_is_found_out() -> None:
    bound = start(cut_layout((700,)), LambOptions())
    with pytest.raises(RuntimeError, match="outside begin"):
        bound.optimizer.step()
    bound.scatter(draw(1), "grad")
    bound.layout.shards[1].tensor.grad = None
    bound.optimizer.begin(LR)
    with pytest.raises(RuntimeError, match="all shards at once"):
        bound.optimizer.step()
    bound.optimizer.begin(LR, torch.ones((), dtype=torch.float64))
    bound.optimizer.step()
    with pytest.raises(RuntimeError, match="did not step every shard"):
        bound.optimizer.finish()


def pieces_of_rank(cuts: tuple[int, ...], rule: Rule) -> tuple[list[float], list[torch.Tensor]]:
    ends = (0, *cuts, TOTAL)
    rank = dist.get_rank()
    shard = flat_shard(ends[rank], ends[rank + 1], 1)
    bound = start(ShardLayout(PARAMETERS, (shard,), group=dist.group.WORLD), rule)
    return trained(bound), bound.gather()


def every_cut() -> list[tuple[list[float], list[torch.Tensor]]]:
    # The last leaves rank 1 with nothing.
    return [pieces_of_rank(cuts, rule) for rule in RULES for cuts in ((700,), (1360,), (TOTAL,))]


def test_two_ranks_step_as_one() -> None:
    found = run_ranks(every_cut, 2)
    for case, (one, other) in enumerate(zip(*found, strict=True)):
        rule = RULES[case // 3]
        whole = start(whole_layout(), rule)
        assert one[0] == other[0] == pytest.approx(trained(whole), rel=1e-6)
        for index, theirs in enumerate(whole.gather()):
            pieces = torch.stack([one[1][index], other[1][index]])
            assert (pieces.isnan().sum(0) == 1).all()
            torch.testing.assert_close(pieces.nansum(0), theirs, rtol=2e-6, atol=rounding(rule))
