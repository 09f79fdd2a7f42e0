"""Learning rates against closed forms."""

import pytest

from pretrain.optim import Schedule
from pretrain.optim.schedule import ScheduleName


def test_warm_up_rises_in_equal_parts_to_the_peak() -> None:
    schedule = Schedule("linear", 0.8, 20, 4)
    assert [schedule(step) for step in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])


def test_linear_falls_in_equal_parts_to_its_end() -> None:
    schedule = Schedule("linear", 1.0, 14, 4, power=7.0, end_lr=0.5)
    assert [schedule(step) for step in range(4, 15)] == pytest.approx([1.0 - 0.05 * k for k in range(11)])


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_polynomial_begins_where_warm_up_ends(power: float) -> None:
    schedule = Schedule("polynomial", 6e-3, 104, 4, power)
    assert schedule(3) == schedule(4) == pytest.approx(6e-3)
    assert schedule(79) == pytest.approx(6e-3 * 0.25**power)
    assert schedule(104) == 0.0


def test_nvidia_polynomial_counts_from_step_zero() -> None:
    """Phase 1 of the published recipe: 28.43% of 7038 steps, then a drop of 15%."""
    schedule = Schedule("nvidia-polynomial", 6e-3, 7038, 2001, 0.5)
    assert schedule(2000) == pytest.approx(6e-3)
    assert schedule(2001) == pytest.approx(6e-3 * (1 - 2001 / 7038) ** 0.5)
    assert schedule(2001) / schedule(2000) == pytest.approx(0.846, abs=1e-3)
    assert schedule(7037) == pytest.approx(6e-3 * (1 / 7038) ** 0.5)


@pytest.mark.parametrize("name", ["linear", "polynomial", "nvidia-polynomial"])
def test_without_warm_up_and_beyond_the_end(name: ScheduleName) -> None:
    schedule = Schedule(name, 1.0, 10, 0, 0.5, end_lr=0.125)
    assert schedule(0) == 1.0
    assert schedule(10) == schedule(99) == 0.125


def test_warm_up_alone() -> None:
    assert [Schedule("linear", 1.0, 2, 2)(step) for step in range(2)] == [0.5, 1.0]
