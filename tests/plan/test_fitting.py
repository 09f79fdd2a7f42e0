"""The most that fits: the boundary by a formula, and beside what the plan itself says of one row more."""

import json
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pretrain.model.presets import PRESETS
from pretrain.plan.fitting import LADDER, MOST_ROWS, most_rows
from tests.command.runs import STORE
from tests.plan.stores import planned

GIB = 1 << 30
TINY = ("--data", STORE, "model.preset=bert-tiny", "data.seq_len=32")


def steps_of(rounded: int) -> Callable[[int], int]:
    """1,000 bytes and 70 a row, and 9 for each of the rows rounded up."""
    return lambda rows: 1000 + 70 * rows + 9 * (rows + -rows % rounded)


def bent(rows: int) -> int:
    """What is largest changes with the rows, as between a head and a layer."""
    return max(5000 + 10 * rows, 80 * rows)


@pytest.mark.parametrize("peak", [steps_of(1), steps_of(16), bent], ids=["affine", "rounded", "bent"])
def test_one_row_more_would_be_too_many(peak: Callable[[int], int]) -> None:
    peaks = [peak(rows) for rows in range(1, 1001)]
    limits = {*peaks[:200], *(each - 1 for each in peaks[1:200]), *range(peaks[200], peaks[-1], 97)}
    for limit in limits:
        assert most_rows(peak, limit) == bisect_right(peaks, limit), limit


def test_few_sizes_are_looked_at() -> None:
    """Each is a traced pass."""
    looked: list[int] = []

    def peak(rows: int) -> int:
        looked.append(rows)
        return steps_of(16)(rows)

    assert most_rows(peak, 10**7) == 126_568
    assert len(looked) <= 8


def test_none_where_one_row_is_too_many_and_an_end_where_nothing_is() -> None:
    assert most_rows(steps_of(1), 1078) == 0 and most_rows(steps_of(1), 1079) == 1
    assert most_rows(lambda rows: 5, 5) == MOST_ROWS


def fits(capsys: pytest.CaptureFixture[str], gib: float, *more: str | Path) -> dict[int, Any]:
    stages = planned(capsys, *TINY, f"--memory={gib}", "--fits", *more)["fits"]["stages"]
    return {each["stage"]: each for each in stages}


def test_the_plan_of_one_row_more_is_too_large(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The plan's own peak of a run with that micro-batch; stage 0 computes by autocast, the others do not."""
    memory, ds_config = 0.125, tmp_path / "ds.json"
    zero = {"stage": 2, "reduce_bucket_size": 100_000}
    ds_config.write_text(json.dumps({"bf16": {"enabled": True}, "zero_optimization": zero}))
    found = fits(capsys, memory, "--ds_config", ds_config)
    for stage, checkpointing in ((0, "none"), (2, "full")):
        (most,) = (each for each in found[stage]["micro_batches"] if each["checkpointing"] == checkpointing)
        assert most["rows"] > 100
        peaks = []
        for rows in (most["rows"], most["rows"] + 1):
            keys = f"train.micro_batch={rows}", f"train.global_batch={2 * rows}"
            way = f"train.activation_checkpointing={checkpointing}"
            stages = planned(capsys, *TINY, "--ds_config", ds_config, *keys, way)["memory"]["stages"]
            peaks.append(stages[stage]["peak_bytes"])
        assert peaks[0] <= memory * GIB < peaks[1]
        assert most["peak_bytes"] == peaks[0]


@pytest.mark.slow
@pytest.mark.in_full("every stage and size of model, twice")
def test_more_memory_takes_no_fewer_rows_and_no_smaller_model(capsys: pytest.CaptureFixture[str]) -> None:
    """And recomputing more takes no fewer rows; a model is counted by its parameters."""
    sizes_gib = (0.03125, 0.25)
    by_memory = [fits(capsys, gib, "--ranks=4", "--backend=fsdp") for gib in sizes_gib]
    for stage in range(4):
        rows = [[each["rows"] for each in found[stage]["micro_batches"]] for found in by_memory]
        assert all(each == sorted(each) for each in rows)
        assert all(less < more for less, more in zip(rows[0], rows[1], strict=True))
        models = [found[stage]["model"] for found in by_memory]
        sizes = [model["parameters"] for model in models]
        assert sizes[0] < sizes[1]
        assert all(model["peak_bytes"] <= gib * GIB for model, gib in zip(models, sizes_gib, strict=True))
    # Cut over four ranks a larger model fits than where each holds all of it.
    assert by_memory[1][3]["model"]["parameters"] > by_memory[1][0]["model"]["parameters"]


def test_the_largest_model_fits_to_the_byte(capsys: pytest.CaptureFixture[str]) -> None:
    """With a byte less it is the next smaller one."""
    model = fits(capsys, 0.0625)[0]["model"]
    smaller = fits(capsys, (model["peak_bytes"] - 1) / GIB)[0]["model"]
    names = list(LADDER)
    assert smaller["name"] == names[names.index(model["name"]) - 1]


def test_nothing_fits_into_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    found = fits(capsys, 0.0001)[0]
    assert found["model"] is None and {each["rows"] for each in found["micro_batches"]} == {0}


def test_the_ladder_begins_with_the_presets_and_grows() -> None:
    """By the parameters of a layer: 4 squares of the width in its attention, 8 in its feed-forward layer."""
    assert list(LADDER)[: len(PRESETS)] == list(PRESETS)
    sizes = [12 * each.num_layers * each.hidden_size**2 for each in LADDER.values()]
    assert sizes == sorted(sizes)
    assert all(each.hidden_size % 64 == 0 for each in LADDER.values())
