"""The rows of every step, by hand; and stages that cannot be."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from pretrain.config import BatchPlan, RunConfig, batch_cut, resolve
from pretrain.errors import UsageError

PLAN = BatchPlan(16, ((2, 4), (3, 8)))
ROWS = [4, 4, 8, 8, 8, 16, 16, 16]
Read = Callable[..., RunConfig]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[train]\nsteps = 9\nglobal_batch = 16\nbatch_stages = [[2, 4], [3, 8]]\n")

    def resolved(*overrides: str) -> RunConfig:
        return resolve(
            recipe_path=recipe, default_recipe=recipe, ds_config_path=None, overrides=overrides, world_size=2
        )

    return resolved


def test_rows_of_each_step() -> None:
    assert [PLAN.rows_of(step) for step in range(8)] == ROWS
    for start in range(8):
        assert list(islice(PLAN.rows_from(start), 8 - start)) == ROWS[start:]
    assert PLAN.sizes == (4, 8, 16)


@pytest.mark.parametrize("rows", [0.5, 4, 5, 8, 9, 16, 31, 32, 33, 48, 49, 100])
def test_steps_for_so_many_rows(rows: float) -> None:
    done, steps = 0, 0
    while done < rows:
        done, steps = done + PLAN.rows_of(steps), steps + 1
    assert PLAN.steps_for(rows) == steps


@pytest.mark.parametrize("steps", range(9))
def test_rows_in_so_many_steps(steps: int) -> None:
    assert PLAN.rows_in(steps) == sum((*ROWS, 16)[:steps])


def test_the_recipe_says_them_and_counts_by_them(read: Read) -> None:
    assert read().recipe.train.batch_plan == PLAN
    # 2 x 4 + 3 x 8 = 32 rows of 128 tokens, then 16 a step.
    assert read("train.tokens=6200").recipe.planned_steps == 7
    assert read("train.batch_stages=[]").recipe.train.batch_plan == BatchPlan(16)


@pytest.mark.parametrize(("micro_batch", "cut"), [("auto", (2, 4)), ("1", (1, 8))])
def test_one_micro_batch_divides_every_stage(read: Read, micro_batch: str, cut: tuple[int, int]) -> None:
    assert batch_cut(read(f"train.micro_batch={micro_batch}"), 2) == cut


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        (
            "train.micro_batch=4",
            r"a stage of 4 rows, which micro-batches of 4 rows on 2 rank\(s\) do not divide",
        ),
        (
            "train.batch_stages=[[2, 5]]",
            "a stage of train.batch_stages of 5 rows does not divide over 2 ranks",
        ),
        ("train.batch_stages=[[2, 1]]", "a stage of train.batch_stages is 1 rows but there are 2 ranks"),
        ("train.batch_stages=[[2, 8], [2, 8]]", "take 8, 8, 16 rows: each must be more than the one before"),
        ("train.batch_stages=[[2, 32]]", "take 32, 16 rows: each must be more"),
        ("train.batch_stages=[[2, 4, 8]]", "train.batch_stages"),
        ("train.batch_stages=[[9, 4]]", "take 9 steps but the run has 9: they must leave steps"),
    ],
)
def test_stages_that_cannot_be(read: Read, override: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        batch_cut(read(override), 2)


def test_a_rate_for_stages_alone_needs_no_base_batch(read: Read) -> None:
    assert read("optimizer.lr_scaling=sqrt").recipe.optimizer.base_batch is None
    with pytest.raises(UsageError, match="base_batch is missing"):
        read("optimizer.lr_scaling=sqrt", "train.batch_stages=[]")
