"""How often the host asks for what a device has computed, and so waits for it: for the gradient norm alone.

Counted on the CPU, with torch's operations as another device would run them: reads of single values as torch dispatches
them, and every call that would copy values from a device or wait for those that go there.
"""

from collections.abc import Callable

import pytest
import torch

from pretrain.optim import AdafactorOptions, AdamWOptions, LambOptions, Rule, SgdOptions
from tests.optim.cuts import Bound, bind, cut_layout, draw, force_kernels
from tests.waits import READ, counted_waits

LR = 0.02
RULES: dict[str, Rule] = {
    "lamb": LambOptions(),
    "lamb-nvidia": LambOptions(trust_without_decay=False, trust_1d=False),
    "adamw": AdamWOptions(),
    "sgd": SgdOptions(0.9, nesterov=True),
    "adafactor": AdafactorOptions(),
}


def waits(work: Callable[[], object]) -> tuple[int, dict[str, int]]:
    """Reads of single values, and what else waits, by name."""
    with counted_waits() as counted:
        work()
    reads = counted.pop(READ, 0)
    return reads, dict(counted)


@pytest.fixture(params=RULES.values(), ids=list(RULES))
def bound(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Bound:
    """After its first step, which makes tables that stay."""
    force_kernels(monkeypatch, "torch")
    found = bind(cut_layout((700,), 2), request.param, weight_decay=0.1, max_grad_norm=30.0)
    found.scatter(draw(0, 0.1), "weight")
    found.step(draw(1), LR)
    return found


@pytest.mark.parametrize("size", [0.1, 2.0], ids=["as it is", "clipped"])
def test_a_step_waits_for_the_gradient_norm_alone(bound: Bound, size: float) -> None:
    bound.scatter(draw(2, size), "grad")

    def step() -> None:
        bound.optimizer.begin(LR)
        bound.optimizer.step()
        bound.optimizer.finish()

    assert waits(step) == (1, {})


def test_so_does_one_whose_norm_is_told(bound: Bound) -> None:
    bound.scatter(draw(2), "grad")
    norm = torch.full((), 3.0, dtype=torch.float64)

    def step() -> None:
        bound.optimizer.begin(LR, norm, 2.0**10)
        bound.optimizer.step()
        bound.optimizer.step()
        bound.optimizer.finish()

    assert waits(step) == (1, {})


def test_figures_are_read_at_once(bound: Bound) -> None:
    expected = {"tolist": 1} if isinstance(bound.optimizer.rule, LambOptions) else {}
    assert waits(bound.optimizer.parameter_figures) == (0, expected)


def test_what_waits_is_counted() -> None:
    values = torch.ones(3)
    assert waits(lambda: float(values[0])) == (1, {})
    assert waits(lambda: values[values > 0].sum().item()) == (1, {"nonzero": 1})
    assert waits(lambda: torch.tensor([1.0], device="cpu").tolist())[1] == {"tensor": 1, "tolist": 1}
