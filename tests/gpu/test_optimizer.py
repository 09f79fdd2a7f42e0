"""On a GPU: a step by Triton's kernels, and by torch's operations, is the step of the CPU's loops, and waits once."""

import warnings
from dataclasses import replace

import pytest
import torch

from pretrain.kernels.kind import KernelKind, kernel_kind
from pretrain.optim import AdamWOptions, LambOptions, Rule
from pretrain.sharding import ShardLayout
from tests.optim.cuts import Bound, bind, cut_layout, draw, force_kernels, whole_layout

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
LR, STEPS = 0.02, 4
RULES: dict[str, Rule] = {
    "lamb": LambOptions(),
    "lamb-nvidia": LambOptions(trust_without_decay=False),
    "lamb-deepspeed": LambOptions.variant("deepspeed", beta1=0.9, beta2=0.999, eps=1e-6),
    "adamw": AdamWOptions(),
}


def on(device: str, layout: ShardLayout) -> ShardLayout:
    shards = [
        replace(shard, tensor=torch.nn.Parameter(shard.tensor.detach().to(device))) for shard in layout.shards
    ]
    return replace(layout, shards=tuple(shards))


def stepped(layout: ShardLayout, rule: Rule, max_grad_norm: float = 0.0) -> Bound:
    bound = bind(layout, rule, weight_decay=0.1, max_grad_norm=max_grad_norm)
    bound.scatter(draw(0, 0.1), "weight")
    for step in range(STEPS):
        bound.step(draw(step + 1, 0.5 + step / 4), LR)
    return bound


def layout_of(cuts: tuple[int, ...] | None) -> ShardLayout:
    return whole_layout() if cuts is None else cut_layout(cuts, 3)


def test_triton_is_taken_where_it_is() -> None:
    pytest.importorskip("triton")
    assert kernel_kind(torch.device(DEVICE), torch.float32) == "triton"


@pytest.mark.parametrize("kernels", ["triton", "torch"])
@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("cuts", [None, (700,), (1352, 1353, 1354, 1400)], ids=str)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_step_is_that_of_the_cpu(
    rule: Rule,
    cuts: tuple[int, ...] | None,
    clipped: bool,
    kernels: KernelKind,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By Triton the moments in every bit where the norm enters nothing, which is added in another order."""
    if kernels == "triton":
        pytest.importorskip("triton")
    max_grad_norm = 30.0 if clipped else 0.0
    theirs = stepped(layout_of(cuts), rule, max_grad_norm)
    force_kernels(monkeypatch, kernels)
    ours = stepped(on(DEVICE, layout_of(cuts)), rule, max_grad_norm)
    for kind in rule.moment_kinds:
        pairs = zip(ours.optimizer.moments(kind), theirs.optimizer.moments(kind), strict=True)
        for one, other in pairs:
            if kernels == "triton" and not clipped:
                assert torch.equal(one.cpu(), other)
            torch.testing.assert_close(one.cpu(), other, rtol=3e-6, atol=5e-8)
    rtol, atol = (2e-7, 1e-9) if kernels == "triton" and not clipped else (3e-6, 5e-8)
    for one, other in zip(ours.gather(), theirs.gather(), strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)
    found, figures = ours.optimizer.parameter_figures(), theirs.optimizer.parameter_figures()
    for kind, values in figures.items():
        # The update of a single number is what is left where its moments cancel.
        assert found[kind] == pytest.approx(values, rel=1e-6 if kernels == "triton" else 1e-4)


def test_a_step_repeats_in_every_bit() -> None:
    pytest.importorskip("triton")
    one, other = (stepped(on(DEVICE, cut_layout((700,), 3)), LambOptions(), 30.0) for _ in range(2))
    assert one.optimizer.parameter_figures() == other.optimizer.parameter_figures()
    for mine, its in zip(one.gather(), other.gather(), strict=True):
        assert torch.equal(mine, its)


@pytest.mark.parametrize("kernels", ["triton", "torch"])
def test_a_step_waits_once(kernels: KernelKind, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what torch itself says of synchronizing calls; for the gradient norm."""
    if kernels == "triton":
        pytest.importorskip("triton")
    force_kernels(monkeypatch, kernels)
    bound = stepped(on(DEVICE, cut_layout((700,), 3)), LambOptions(), 30.0)
    bound.scatter(draw(9), "grad")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            bound.optimizer.begin(LR)
            bound.optimizer.step()
            bound.optimizer.finish()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len([each for each in said if "synchroniz" in str(each.message)]) == 1
