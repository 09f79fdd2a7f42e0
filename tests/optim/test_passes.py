"""The compiled passes against torch's own operations, which other devices run, and in blocks of any size.

Triton's kernels are tried in `test_triton_passes.py`.
"""

from collections.abc import Iterator

import pytest
import torch

from pretrain.kernels import blocks
from pretrain.optim import AdamWOptions, LambOptions, Rule
from pretrain.optim.decay import Decays
from pretrain.optim.moments import LocalSlices
from pretrain.sharding import Sliced
from tests.optim.cuts import PARAMETERS, bind, cut_layout, draw, force_kernels, whole_layout

RULES: tuple[Rule, ...] = (
    LambOptions(),
    LambOptions(trust_without_decay=False, bias_correction=False),
    LambOptions(trust_1d=False),
    AdamWOptions(),
)
NAMES = ["lamb", "lamb-nvidia", "lamb-matrices", "adamw"]
LR, STEPS = 0.02, 5


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def trained(rule: Rule, *, cut: bool = False) -> list[torch.Tensor]:
    """Weights and moments after some steps, some of them clipped."""
    bound = bind(cut_layout((700,), 2) if cut else whole_layout(), rule, weight_decay=0.1, max_grad_norm=30.0)
    bound.scatter(draw(0, 0.1), "weight")
    for step in range(STEPS):
        bound.step(draw(step + 1, 0.5 + step / 4), LR)
    moments = [bound.gather(bound.optimizer.moments(kind)) for kind in ("exp_avg", "exp_avg_sq")]
    return [*bound.gather(), *moments[0], *moments[1]]


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_equals_torchs_operations(rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = trained(rule)
    force_kernels(monkeypatch, "torch")
    for ours, theirs in zip(compiled, trained(rule), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=3e-6, atol=5e-8)


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
@pytest.mark.usefixtures("threads")
def test_threads_show_in_no_bit(rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_NUMEL", 100)
    found = []
    for count in (1, 3):
        torch.set_num_threads(count)
        found.append(trained(rule, cut=True))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_blocks_do_not_show(rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(rule)
    monkeypatch.setattr(blocks, "BLOCK_NUMEL", 7)
    for ours, theirs in zip(trained(rule), whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_gradients_are_clipped_once() -> None:
    """By who takes them clipped, whatever how often."""
    layout = whole_layout()
    gradients = [torch.full(info.shape, 8.0) for info in PARAMETERS]
    of_kind = Sliced(layout.table, gradients)
    local = LocalSlices(layout, layout.table, of_kind, of_kind, {}, Decays.of(layout, 0.0), 0.25)
    assert local.gradients[2].tolist() == local.gradients[2].tolist() == [2.0] * 15
    assert gradients[2].flatten().tolist() == [2.0] * 15
