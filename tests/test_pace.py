"""Length and rate of a run whose batch grows, by hand."""

import pytest

from pretrain.config import Recipe
from pretrain.errors import UsageError
from pretrain.optim import Progress
from pretrain.pace import build_schedule, run_length

STAGES = [[20, 2], [10, 4]]  # 80 rows in 30 steps, then 16 a step
TOKENS = 10_000  # 1,000 rows of 10
WARMED_UP = 60 * 10  # tokens of 25 steps


def recipe(**schedule: object) -> Recipe:
    train = {"steps": None, "tokens": TOKENS, "global_batch": 16, "batch_stages": STAGES}
    sections = {"data": {"seq_len": 10}, "train": train, "optimizer": {"lr": 0.5}, "schedule": schedule}
    return Recipe.model_validate(sections)


def no_samples() -> float:
    raise AssertionError("no rule goes by samples")


def test_decay_begins_where_warm_up_ends_though_its_steps_are_small() -> None:
    """25 of 88 steps are warm-up, but 6% of the tokens: by steps the rate would stand still until 28%."""
    schedule, resolved = build_schedule(recipe(warmup=25), no_samples)
    length = run_length(recipe(warmup=25))
    assert (length.planned_steps, resolved["warmup_share"]) == (88, pytest.approx(0.06))
    for step, tokens in ((25, WARMED_UP), (26, 640), (30, 800), (50, 4000), (87, 9920), (88, TOKENS)):
        expected = 0.5 * (TOKENS - tokens) / (TOKENS - WARMED_UP)
        assert schedule(step, length.share(Progress(step, tokens))) == pytest.approx(expected)
    assert schedule(24, length.share(Progress(24, 560))) == 0.5


def test_a_warm_up_in_samples_goes_through_the_stages() -> None:
    """A row is two samples: 120 samples are 60 rows, which 25 steps take."""
    _, resolved = build_schedule(recipe(warmup_samples=120), lambda: 32.0)
    assert resolved["warmup_steps"] == 25


def test_a_rate_that_would_end_above_its_peak_is_refused() -> None:
    """The peak is that after scaling: 0.5 found at 64 samples a step is 0.25 at 32."""
    assert build_schedule(recipe(end_lr=0.5), no_samples)[0].end_lr == 0.5
    with pytest.raises(
        UsageError, match=r"^schedule.end_lr is 0.6, above the peak rate 0.5 \(optimizer.lr\)"
    ):
        build_schedule(recipe(end_lr=0.6), no_samples)
    scaled = recipe(end_lr=0.3).model_dump()
    scaled["optimizer"] |= {"lr_scaling": "linear", "base_batch": 64}
    with pytest.raises(
        UsageError, match=r"^schedule.end_lr is 0.3, above the peak rate 0.25 \(.*scaled to 32"
    ):
        build_schedule(Recipe.model_validate(scaled), lambda: 32.0)
