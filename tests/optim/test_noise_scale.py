"""The estimators of the gradient noise scale beside gradients whose mean and covariance are known."""

from math import sqrt

import numpy as np
import pytest
import torch

from pretrain.optim import LambOptions, NoiseScale, NoiseState, SpikeRule, noise_estimate
from pretrain.optim.noise_scale import NoiseEstimate
from tests.optim.cuts import bind, cut_layout, draw

MEAN = np.array([0.3, -0.2, 0.0, 0.5, 0.1])  # |G|^2 = 0.39
DEVIATIONS = np.array([1.0, 0.5, 2.0, 0.1, 0.7])  # of each element: tr(Sigma) = 5.75
SQUARED, TRACE = 0.39, 5.75


@pytest.mark.parametrize(("small_rows", "large_rows"), [(1, 2), (2, 16), (24, 32)])
@pytest.mark.parametrize("nested", [True, False])
def test_both_estimates_are_unbiased(small_rows: int, large_rows: int, nested: bool) -> None:
    """Their mean over many batches is the truth within four standard errors, and these are small."""
    random = np.random.default_rng(small_rows)
    found = []
    for _ in range(4000):
        rows = MEAN + DEVIATIONS * random.standard_normal((large_rows, 5))
        others = MEAN + DEVIATIONS * random.standard_normal((small_rows, 5))
        small = (rows[:small_rows] if nested else others).mean(0)
        norms = [float(np.linalg.norm(gradient)) for gradient in (small, rows.mean(0))]
        estimate = noise_estimate(norms[0], small_rows, norms[1], large_rows)
        found.append((estimate.squared_gradient, estimate.trace))
    means, errors = np.mean(found, 0), np.std(found, 0) / sqrt(len(found))
    assert np.all(np.abs(means - [SQUARED, TRACE]) < 4 * errors)
    assert errors[1] < 0.15 * TRACE


def test_without_noise_there_is_none_and_noise_alone_has_no_gradient() -> None:
    """By hand: |G| = 3 whatever the rows; and tr(Sigma) = 12, so that 2 rows have 6 and 6 rows have 2."""
    assert noise_estimate(3.0, 2, 3.0, 6) == NoiseEstimate(9.0, 0.0)
    estimate = noise_estimate(sqrt(6), 2, sqrt(2), 6)
    assert estimate.squared_gradient == pytest.approx(0.0, abs=1e-12)
    assert estimate.trace == pytest.approx(12.0)


def test_each_average_has_newer_measurements_with_more_weight_and_the_ratio_is_theirs() -> None:
    scale = NoiseScale()
    assert scale.state.noise_scale is None
    values = [(1.0, 6.0), (4.0, 3.0), (-2.0, 9.0)]
    for squared, trace in values:
        scale.update(NoiseEstimate(squared, trace))
    weights = [0.95**2, 0.95, 1.0]
    expected = [
        sum(w * pair[part] for w, pair in zip(weights, values, strict=True)) / sum(weights) for part in (0, 1)
    ]
    assert (scale.state.squared_gradient, scale.state.trace) == pytest.approx(expected)
    assert scale.state.noise_scale == pytest.approx(expected[1] / expected[0])
    assert scale.state.measurements == 3


@pytest.mark.parametrize(("squared", "trace"), [(-1.0, 2.0), (0.0, 2.0), (1.0, -2.0), (1.0, 0.0)])
def test_no_ratio_of_what_is_not_positive(squared: float, trace: float) -> None:
    assert NoiseState().with_estimate(NoiseEstimate(squared, trace)).noise_scale is None


def test_goes_on_from_a_saved_state() -> None:
    whole, resumed = NoiseScale(), NoiseScale()
    for number in range(5):
        whole.update(NoiseEstimate(number, number**2))
        if number == 2:
            resumed.restore(whole.state)
        elif number > 2:
            resumed.update(NoiseEstimate(number, number**2))
    assert resumed.state == whole.state


def test_a_measured_gradient_changes_nothing() -> None:
    """Beside an optimizer that is never asked for one: norms, weights, moments, counts, what spikes are told by."""
    plain, measuring = (bind(cut_layout((700,), 2), LambOptions()) for _ in range(2))
    for bound in (plain, measuring):
        bound.optimizer.spikes = SpikeRule(factor=3.0, window=2)
        bound.scatter(draw(0, 0.1), "weight")
    for step in range(4):
        before = measuring.optimizer.parameter_figures()
        gradient = [piece * 50 for piece in draw(90 + step)]
        measuring.scatter(gradient, "grad")
        measuring.optimizer.begin(None, grad_scale=2.0)
        measuring.optimizer.step()
        expected = float(torch.cat([piece.flatten() for piece in gradient]).double().norm()) / 2
        assert measuring.optimizer.measured() == pytest.approx(expected, rel=1e-6)
        assert measuring.optimizer.parameter_figures() == before
        assert measuring.step(draw(step + 1), 0.02) == plain.step(draw(step + 1), 0.02)
    ours, theirs = measuring.optimizer, plain.optimizer
    assert (ours.applied_steps, ours.recent_norms, ours.spikes_in_row) == (4, theirs.recent_norms, 0)
    for mine, other in zip(measuring.gather(), plain.gather(), strict=True):
        assert torch.equal(mine, other)
    for kind in ("exp_avg", "exp_avg_sq"):
        for mine, other in zip(ours.moments(kind), theirs.moments(kind), strict=True):
            assert torch.equal(mine, other)
