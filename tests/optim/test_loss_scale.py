"""The rule of the loss scale, against a table made by hand and DeepSpeed's own class."""

import random
from typing import Any

import pytest
from deepspeed.runtime.fp16 import loss_scaler as theirs

from pretrain.optim import LossScaleOptions, LossScaler, LossScaleState

GOOD, BAD = False, True


def scales(options: LossScaleOptions, steps: list[bool]) -> list[float]:
    """The scale after each step."""
    scaler, found = LossScaler(options), []
    for bad in steps:
        scaler.update(overflow=bad)
        found.append(scaler.scale)
    return found


def test_growth_by_hand() -> None:
    """A window of 3: the 4th good step in a row doubles the scale, then the 7th; a bad one starts anew."""
    options = LossScaleOptions(8.0, dynamic=True, window=3)
    table = [
        (GOOD, 8), (GOOD, 8), (GOOD, 8), (GOOD, 16), (GOOD, 16), (GOOD, 16), (GOOD, 32),
        (BAD, 16), (GOOD, 16), (GOOD, 16), (BAD, 8),
        (GOOD, 8), (GOOD, 8), (GOOD, 8), (GOOD, 16),
    ]  # fmt: skip
    assert scales(options, [bad for bad, _ in table]) == [scale for _, scale in table]


def test_hysteresis_by_hand() -> None:
    """Of 3: two bad steps are forgiven; growth forgives two more, a good step only where it is told to."""
    options = LossScaleOptions(8.0, dynamic=True, window=1, hysteresis=3)
    steps = [BAD, BAD, BAD, BAD, GOOD, BAD, GOOD, GOOD, BAD, BAD, BAD]
    assert scales(options, steps) == [8, 8, 4, 2, 2, 1, 1, 2, 2, 2, 1]
    refilled = LossScaleOptions(8.0, dynamic=True, window=9, hysteresis=3, refill_hysteresis=True)
    assert scales(refilled, steps[:6]) == [8, 8, 4, 2, 2, 2]


def test_lowest_scale_and_steps_lost_there() -> None:
    scaler = LossScaler(LossScaleOptions(8.0, dynamic=True, window=9, min_scale=3.0))
    lost = []
    for bad in (BAD, BAD, BAD, BAD, GOOD, BAD):
        scaler.update(overflow=bad)
        lost.append((scaler.scale, scaler.lost_steps))
    assert lost == [(4, 0), (3, 0), (3, 1), (3, 2), (3, 0), (3, 1)]


@pytest.mark.parametrize("options", [None, LossScaleOptions(96.0)], ids=["none", "static"])
def test_a_scale_that_stays(options: LossScaleOptions | None) -> None:
    scaler = LossScaler(options)
    first = scaler.scale
    assert first == (1 if options is None else 96)
    for bad in (*[GOOD] * 2000, BAD, BAD):
        scaler.update(overflow=bad)
        assert scaler.scale == first
    assert scaler.lost_steps == 2


def test_grows_no_further_than_its_inverse_is_a_normal_float32() -> None:
    found = scales(LossScaleOptions(2.0**125, dynamic=True, window=1), [GOOD] * 4)
    assert found == [2.0**125, 2.0**126, 2.0**126, 2.0**126]


@pytest.mark.parametrize("refill", [False, True])
@pytest.mark.parametrize("hysteresis", [1, 2, 4])
@pytest.mark.parametrize("window", [1, 2, 5])
def test_equals_deepspeeds_own(
    window: int, hysteresis: int, refill: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(theirs.dist, "get_rank", lambda: 1)
    peer: Any = theirs.DynamicLossScaler(
        init_scale=2.0**12,
        scale_window=window,
        min_scale=4.0,
        delayed_shift=hysteresis,
        consecutive_hysteresis=refill,
        raise_error_at_min_scale=False,
    )
    ours = LossScaler(LossScaleOptions(2.0**12, True, window, hysteresis, refill, 4.0))
    generator = random.Random(window * 10 + hysteresis)
    seen = set()
    for step in range(400):
        bad = generator.random() < (0.3 if step < 100 else 0.95)
        peer.update_scale(bad)
        ours.update(overflow=bad)
        assert (ours.scale, ours.state.hysteresis_left) == (peer.cur_scale, peer.cur_hysteresis), step
        seen.add(ours.scale)
    assert len(seen) > 3 and min(seen) == 4.0


def test_goes_on_from_a_state() -> None:
    options = LossScaleOptions(2.0**12, dynamic=True, window=3, hysteresis=2)
    steps = [GOOD] * 4 + [BAD] + [GOOD] * 2 + [BAD] + [GOOD] * 9
    for stop in range(len(steps)):
        first, second = LossScaler(options), LossScaler(options)
        for bad in steps[:stop]:
            first.update(overflow=bad)
        second.restore(first.state)
        for bad in steps[stop:]:
            first.update(overflow=bad)
            second.update(overflow=bad)
            assert second.state == first.state


def test_what_the_options_rule_out_is_not_restored() -> None:
    saved = LossScaleState(4.0, 7, 3, 2)
    static = LossScaler(LossScaleOptions(96.0))
    static.restore(saved)
    assert static.scale == 96
    narrower = LossScaler(LossScaleOptions(64.0, dynamic=True, hysteresis=2, min_scale=16.0))
    narrower.restore(saved)
    assert narrower.state == LossScaleState(16.0, 7, 2, 2)
    narrower.restore(None)
    assert narrower.scale == 16
