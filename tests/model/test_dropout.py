"""Dropout on the CPU: shares, expectation, gradients, and where torch's own stays."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from pretrain.model.dropout import Dropout, draw, dropped, use_dropout

COUNT = 1_000_001  # no multiple of the elements that one draw serves


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 0.001])
def test_share_and_expectation(p: float) -> None:
    torch.manual_seed(0)
    output = dropped(torch.ones(COUNT), p)
    share = float((output == 0).double().mean())
    assert share == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / COUNT) + 2**-17)
    assert float(output.double().mean()) == pytest.approx(1.0, abs=5 * math.sqrt(p / (1 - p) / COUNT))
    # All that is kept has one factor: 1 / (1 - p), by the share that is kept.
    assert len(output.unique()) == 2 and float(output.max()) == pytest.approx(1 / (1 - p), rel=1e-3)


def test_draws_are_those_of_splitmix64() -> None:
    """The first five from 1234567 as the generator's public test vectors have them."""
    draws = np.zeros(5, np.uint64)
    draw(draws, np.uint64(1234567))
    assert draws.tolist() == [
        *(6457827717110365317, 3203168211198807973, 9817491932198370423),
        *(4593380528125082431, 16408922859458223821),
    ]


def test_neighbours_and_passes_are_independent() -> None:
    """Four elements come of one draw: their pairs are dropped together as often as chance has it."""
    torch.manual_seed(0)
    first, second = (dropped(torch.ones(4 * COUNT), 0.5).view(-1, 4) == 0 for _ in range(2))
    pairs = [(first[:, one], first[:, other]) for one in range(4) for other in range(one)]
    for one, other in [*pairs, (first, second)]:
        both = float((one & other).double().mean())
        assert both == pytest.approx(0.25, abs=5 * math.sqrt(0.25 * 0.75 / one.numel()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradient_passes_where_the_value_did(dtype: torch.dtype) -> None:
    values = torch.full((3, 5, 7), 2.0, dtype=dtype, requires_grad=True)
    output = dropped(values, 0.3)
    output.backward(torch.full_like(output, 3.0))
    assert values.grad is not None and values.grad.dtype == output.dtype == dtype
    torch.testing.assert_close(values.grad, output.detach() * 1.5)
    assert 0 < int((output == 0).sum()) < output.numel()


def test_seed_says_what_is_dropped_whatever_the_number_of_threads() -> None:
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            torch.manual_seed(5)
            found.append(dropped(torch.ones(COUNT), 0.1))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found) and not torch.equal(found[0], dropped(torch.ones(COUNT), 0.1))


def test_edges() -> None:
    values = torch.ones(6)
    assert dropped(values, 0.0) is values
    assert not dropped(values, 1.0).any()
    assert dropped(torch.ones(0, 3), 0.5).shape == (0, 3)
    assert dropped(values, 1 - 2**-20).isfinite().all()
    assert Dropout(0.5).eval()(values) is values
    noncontiguous = torch.ones(64, 32).T
    assert dropped(noncontiguous, 0.5).shape == (32, 64)


def test_every_dropout_of_a_module_is_replaced() -> None:
    module = nn.Sequential(
        nn.Linear(2, 2), nn.Sequential(nn.Dropout(0.25)), nn.Dropout(0.5), nn.AlphaDropout(0.5)
    )
    use_dropout(module)
    found = [
        (type(each), each.p) for each in module.modules() if isinstance(each, nn.modules.dropout._DropoutNd)
    ]
    assert found == [(Dropout, 0.25), (Dropout, 0.5), (nn.AlphaDropout, 0.5)]
    assert torch.equal(module.eval()(torch.ones(1, 2)), module[0](torch.ones(1, 2)))
