"""The batch of a run that goes on with another number of ranks."""

import json
from pathlib import Path
from typing import Any

import pytest

from pretrain.config import EarlierCut, RunConfig, batch_cut, resolve
from pretrain.errors import UsageError
from tests.worlds import ROOT

DEMO = ROOT / "launch" / "recipes" / "demo.toml"
PRODUCT = {"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2}


class Starts:
    """Of one run, each as the one before left it."""

    def __init__(self, folder: Path) -> None:
        self.engine = folder / "ds.json"
        self.earlier: EarlierCut | None = None

    def config(self, ranks: int, engine: dict[str, Any], *overrides: str) -> RunConfig:
        self.engine.write_text(json.dumps(engine))
        return resolve(
            recipe_path=None,
            default_recipe=DEMO,
            ds_config_path=self.engine,
            overrides=overrides,
            world_size=ranks,
            earlier=self.earlier,
        )

    def cut(self, ranks: int, engine: dict[str, Any], *overrides: str) -> tuple[int, int, int]:
        """(global batch, micro-batch, accumulation) of a start, which saves a checkpoint."""
        config = self.config(ranks, engine, *overrides)
        micro_batch, accumulation = batch_cut(config, ranks)
        global_batch = config.recipe.train.global_batch
        assert global_batch == ranks * micro_batch * accumulation
        saved = json.loads(json.dumps(config.as_dict()))
        self.earlier = EarlierCut.of(saved, {"ranks": ranks, "micro_batch": micro_batch})
        return global_batch, micro_batch, accumulation


@pytest.fixture
def starts(tmp_path: Path) -> Starts:
    return Starts(tmp_path)


def test_a_batch_said_as_a_product_with_the_ranks_stays_what_it_was(starts: Starts) -> None:
    assert starts.cut(2, PRODUCT) == (16, 4, 2)
    assert starts.cut(4, PRODUCT) == (16, 4, 1)
    assert starts.cut(4, PRODUCT) == (16, 4, 1)  # once more: it is no product of these ranks
    assert starts.cut(1, PRODUCT) == (16, 4, 4)
    assert starts.cut(8, PRODUCT) == (16, 2, 1)
    assert starts.cut(2, PRODUCT) == (16, 4, 2)  # as it is said again


@pytest.mark.parametrize(
    ("engine", "overrides", "ranks", "cut"),
    [
        ({"gradient_accumulation_steps": 2}, ["train.global_batch=24"], 24, (24, 1, 1)),
        ({}, ["train.global_batch=24", "train.micro_batch=4"], 4, (24, 3, 2)),
        ({"train_batch_size": 24} | PRODUCT, [], 1, (24, 4, 6)),
        (PRODUCT, ["train.batch_stages=[[2, 12]]"], 6, (24, 2, 2)),
        (PRODUCT, [], 12, (24, 2, 1)),
    ],
)
def test_a_cut_that_other_ranks_do_not_fit_is_found_anew(
    starts: Starts, engine: dict[str, Any], overrides: list[str], ranks: int, cut: tuple[int, int, int]
) -> None:
    assert starts.cut(3, engine, *overrides) == (24, 4, 2)
    assert starts.cut(ranks, engine, *overrides) == cut


def test_what_cannot_be_cut_is_said_with_the_numbers_that_can(starts: Starts) -> None:
    starts.cut(2, PRODUCT)
    with pytest.raises(UsageError) as refused:
        starts.cut(3, PRODUCT)
    assert str(refused.value) == (
        "The run goes on from 2 rank(s) with steps of 16 rows (train.global_batch), which do not divide over 3 ranks: "
        "start 2 or 4, or say another train.global_batch, which changes the course of the loss."
    )
    with pytest.raises(UsageError, match=r"do not divide over 32 ranks: start 16, or say"):
        starts.cut(32, PRODUCT)


@pytest.mark.parametrize(
    ("engine", "overrides", "cut"),
    [
        ({"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 3}, [], (48, 4, 3)),
        (PRODUCT, ["train.global_batch=32"], (32, 4, 2)),
        ({"train_batch_size": 8}, [], (8, 2, 1)),
    ],
)
def test_what_is_said_anew_about_the_batch_holds(
    starts: Starts, engine: dict[str, Any], overrides: list[str], cut: tuple[int, int, int]
) -> None:
    starts.cut(2, PRODUCT)
    assert starts.cut(4, engine, *overrides) == cut


def test_what_contradicts_itself_anew_is_refused_as_at_a_first_start(starts: Starts) -> None:
    starts.cut(2, PRODUCT)
    other = {"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 3}
    with pytest.raises(UsageError, match=r"train.global_batch is 16 .* but 48"):
        starts.config(4, other, "train.global_batch=16")


@pytest.mark.parametrize("lost", ["ranks", "micro_batch"])
def test_a_checkpoint_that_does_not_say_its_cut_is_no_help(starts: Starts, lost: str) -> None:
    saved = starts.config(2, PRODUCT).as_dict()
    written_by = {"ranks": 2, "micro_batch": 4}
    del written_by[lost]
    assert EarlierCut.of(saved, written_by) is None
    assert EarlierCut.of({}, {"ranks": 2, "micro_batch": 4}) is None
    assert EarlierCut.of(saved, {"ranks": "2", "micro_batch": 4}) is None
