"""Learning rates against closed forms, torch's schedulers, DeepSpeed's, and the code of published recipes."""

from math import log
from typing import Any, get_args

import pytest
import torch
from deepspeed.runtime import lr_schedules
from torch.optim import lr_scheduler

from pretrain.optim import Schedule
from pretrain.optim.schedule import ScheduleName, WarmupShape

STEPS = 40
ENDING: tuple[ScheduleName, ...] = ("linear", "polynomial", "nvidia-polynomial", "cosine")


def rates_of(kind: Any, lr: float, **options: Any) -> list[float]:
    """What a scheduler of torch's kind gives each of STEPS steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = kind(optimizer, **options)
    found = []
    for _ in range(STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_warm_up_rises_in_equal_parts_to_the_peak() -> None:
    schedule = Schedule("linear", 0.8, 20, 4)
    assert [schedule(step) for step in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])


@pytest.mark.parametrize("name", get_args(ScheduleName))
def test_quadratic_and_logarithmic_warm_up(name: ScheduleName) -> None:
    quadratic, logarithmic = (
        Schedule(name, 0.8, 20, 4, warmup_shape=shape) for shape in ("quadratic", "log")
    )
    assert [quadratic(step) for step in range(4)] == pytest.approx([0.05, 0.2, 0.45, 0.8])
    by_hand = [0.0, 0.8 * log(2) / log(4), 0.8 * log(3) / log(4), 0.8]
    assert [logarithmic(step) for step in range(4)] == pytest.approx(by_hand)


@pytest.mark.parametrize("shape", get_args(WarmupShape))
def test_warm_up_of_one_step(shape: WarmupShape) -> None:
    assert Schedule("constant", 0.5, 3, 1, warmup_shape=shape)(0) == 0.5


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


@pytest.mark.parametrize("warmup", [0, 7])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            {"name": "linear"},
            (lr_scheduler.LinearLR, {"start_factor": 1.0, "end_factor": 0.0, "total_iters": STEPS}),
        ),
        (
            {"name": "polynomial", "power": 1.7},
            (lr_scheduler.PolynomialLR, {"power": 1.7, "total_iters": STEPS}),
        ),
        (
            {"name": "cosine", "end_lr": 0.03},
            (lr_scheduler.CosineAnnealingLR, {"T_max": STEPS, "eta_min": 0.03}),
        ),
        (
            {"name": "step", "decay_rate": 0.3, "decay_steps": 6},
            (lr_scheduler.StepLR, {"gamma": 0.3, "step_size": 6}),
        ),
        (
            {"name": "exponential", "decay_rate": 0.3, "decay_steps": 6},
            (lr_scheduler.ExponentialLR, {"gamma": 0.3 ** (1 / 6)}),
        ),
        ({"name": "constant"}, (lr_scheduler.ConstantLR, {"factor": 1.0})),
    ],
    ids=lambda case: case["name"] if isinstance(case, dict) else "",
)
def test_decays_as_torch_from_the_end_of_warm_up(ours: Any, theirs: Any, warmup: int) -> None:
    schedule = Schedule(peak_lr=0.6, total_steps=STEPS + warmup, warmup_steps=warmup, **ours)
    kind, options = theirs
    found = [schedule(step) for step in range(warmup, STEPS + warmup)]
    assert found == pytest.approx(rates_of(kind, 0.6, **options), rel=1e-9, abs=1e-12)


def bing_bert(step: int, decay_rate: float, decay_steps: int, total: int, warmup: float) -> float:
    """`warmup_exp_decay_exp` of DeepSpeedExamples, training/bing_bert (its schedule "EE"), word for word."""
    x = step / total
    warmup_end = warmup * total
    if x < warmup:
        return (x / warmup) ** 2.0
    return float(decay_rate ** ((step - warmup_end) / decay_steps))


def test_exponential_is_that_of_deepspeeds_bert_recipe() -> None:
    """bert_large_lamb.json, phase 1, and the offset of its script; its warm-up is one step behind."""
    peak, offset, total, warmup = 11e-3, 1e-3, 7500, 0.06
    schedule = Schedule(
        "exponential", peak + offset, total, 450, 1.0, offset, 0.9, 250, warmup_shape="quadratic"
    )
    for step in (450, 451, 700, 4000, 7499):
        assert schedule(step) == pytest.approx(offset + peak * bing_bert(step, 0.9, 250, total, warmup))
    without = Schedule("exponential", peak, total, 450, 1.0, 0.0, 0.9, 250, warmup_shape="quadratic")
    for step in (1, 44, 448):
        assert without(step - 1) == pytest.approx(peak * bing_bert(step, 0.9, 250, total, warmup))


@pytest.mark.parametrize(
    ("name", "kind", "options", "late", "decay_late"),
    [
        ("constant", "WarmupLR", {"warmup_max_lr": 0.5}, 2, 0),
        ("linear", "WarmupDecayLR", {"warmup_max_lr": 0.5, "total_num_steps": STEPS}, 2, 1),
        ("cosine", "WarmupCosineLR", {"cos_min_ratio": 0.1, "total_num_steps": STEPS}, 2, 0),
    ],
)
def test_deepspeeds_schedulers_are_ours_some_steps_later(
    name: ScheduleName, kind: str, options: dict[str, Any], late: int, decay_late: int
) -> None:
    """Its engine steps a scheduler after the optimizer, and its warm-up counts from 0."""
    theirs = rates_of(getattr(lr_schedules, kind), 0.5, warmup_num_steps=8, warmup_type="linear", **options)
    ours = Schedule(name, 0.5, STEPS, 8, end_lr=0.05 if name == "cosine" else 0.0)
    assert theirs[:late] == [0.0, 0.0]
    assert theirs[late : 8 + decay_late] == pytest.approx([ours(k) for k in range(8 + decay_late - late)])
    after = range(8 + late, STEPS)
    assert [theirs[k] for k in after] == pytest.approx([ours(k - decay_late) for k in after])


def test_deepspeeds_logarithmic_warm_up_is_ours_one_step_later() -> None:
    theirs = rates_of(lr_schedules.WarmupLR, 0.5, warmup_max_lr=0.5, warmup_num_steps=8, warmup_type="log")
    ours = Schedule("constant", 0.5, STEPS, 8, warmup_shape="log")
    assert theirs[1:] == pytest.approx([ours(step) for step in range(STEPS - 1)])


@pytest.mark.parametrize("name", ENDING)
def test_without_warm_up_and_beyond_the_end(name: ScheduleName) -> None:
    schedule = Schedule(name, 1.0, 10, 0, 0.5, end_lr=0.125)
    assert schedule(0) == 1.0
    assert schedule(10) == schedule(99) == 0.125


def test_warm_up_alone() -> None:
    assert [Schedule("linear", 1.0, 2, 2)(step) for step in range(2)] == [0.5, 1.0]


@pytest.mark.parametrize("name", get_args(ScheduleName))
def test_a_share_of_the_steps_is_the_same_as_steps(name: ScheduleName) -> None:
    schedule = Schedule(name, 1.0, 30, 6, 0.5, 0.1, 0.5, 4)
    by_steps = [schedule(step) for step in range(31)]
    assert [schedule(step, step / 30) for step in range(31)] == pytest.approx(by_steps, abs=1e-8)


@pytest.mark.parametrize("name", ENDING)
def test_a_share_by_tokens_ends_the_decay_when_the_tokens_end(name: ScheduleName) -> None:
    """Rows half full: twice the planned steps. Warm-up keeps its steps, and the rate never rises after it."""
    schedule = Schedule(name, 1.0, 20, 4, 0.5, end_lr=0.25)
    found = [schedule(step, step / 40) for step in range(41)]
    assert found[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert found[4:] == sorted(found[4:], reverse=True)
    assert found[39] > found[40] == 0.25
