"""metrics.jsonl and TensorBoard as another program reads them, before and after a restart."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pretrain.faults.room import small_disk
from pretrain.faults.row import NotHere
from pretrain.metrics import EvalRecord, MetricsWriter, StepRecord

RECORD = StepRecord(
    step=0,
    loss=3.0,
    mlm_loss=2.0,
    nsp_loss=1.0,
    lr=0.5,
    grad_norm=4.0,
    loss_scale=1.0,
    skipped=False,
    samples=6,
    tokens=7,
    cursor=[0, 1, 2],
    seconds=0.1,
    tokens_per_second=70.0,
    mfu=None,
    global_batch=8,
)
EVALUATION = EvalRecord(
    step=0,
    mlm_loss=2.5,
    mask_only_loss=2.75,
    shuffled_mask_only_loss=None,
    unigram_entropy=4.0,
    mlm_accuracy=0.25,
    nsp_accuracy=0.5,
    nsp_accuracy_low=0.375,
    rows=8,
    masked=9,
    pairs=10,
)


def write(
    folder: Path, finished: int, last: int, loss: float, close: bool = True, name: str | None = None
) -> None:
    writer = MetricsWriter(
        folder / "metrics.jsonl",
        folder / "eval.jsonl",
        folder / "samples.jsonl",
        folder / "tensorboard",
        finished,
        log_every=2,
    )
    for step in range(finished + 1, last + 1):
        writer.step(replace(RECORD, step=step, loss=loss))
        if name is not None:
            writer.samples(step, [f"{name}{step}", name])
        if step % 4 == 0:
            writer.evaluation(replace(EVALUATION, step=step, mlm_loss=loss))
    if close:
        writer.close()


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_step_is_a_line_with_the_names_of_the_contract(tmp_path: Path) -> None:
    write(tmp_path, 0, 3, 3.0)
    names = "step loss mlm_loss nsp_loss lr grad_norm loss_scale skipped samples tokens cursor seconds"
    assert [list(line) for line in lines(tmp_path / "metrics.jsonl")] == [
        [*names.split(), "tokens_per_second", "mfu", "global_batch", "data_wait"]
    ] * 3
    assert lines(tmp_path / "metrics.jsonl")[1]["cursor"] == [0, 1, 2]


def test_lines_are_there_at_once(tmp_path: Path) -> None:
    write(tmp_path, 0, 5, 3.0, close=False)
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5]
    assert [line["step"] for line in lines(tmp_path / "eval.jsonl")] == [4]
    assert "stores" not in lines(tmp_path / "eval.jsonl")[0]


def test_restart_drops_what_is_made_again(tmp_path: Path) -> None:
    """Stopped in step 10 with a checkpoint of step 6, in the middle of a line."""
    write(tmp_path, 0, 9, 3.0)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 1')
    write(tmp_path, 6, 9, 5.0)
    found = lines(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in found] == list(range(1, 10))
    assert [line["loss"] for line in found] == [3.0] * 6 + [5.0] * 3
    assert [(line["step"], line["mlm_loss"]) for line in lines(tmp_path / "eval.jsonl")] == [
        (4, 3.0),
        (8, 5.0),
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eval.jsonl", "metrics.jsonl", "tensorboard"]


@pytest.mark.parametrize("restarted", [False, True])
def test_tensorboard_reads_it(tmp_path: Path, restarted: bool) -> None:
    write(tmp_path, 0, 9, 3.0)
    if restarted:
        write(tmp_path, 6, 9, 5.0)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    loss = [(event.step, event.value) for event in board.Scalars("train/loss")]
    assert loss == [(2, 3.0), (4, 3.0), (6, 3.0), (8, 5.0 if restarted else 3.0)]
    assert [event.value for event in board.Scalars("heldout/mask_only_loss")] == [2.75, 2.75]
    assert "train/mfu" not in board.Tags()["scalars"]


def test_samples_are_lines_of_their_own_and_restart_with_the_rest(tmp_path: Path) -> None:
    write(tmp_path, 0, 4, 3.0, name="a")
    write(tmp_path, 2, 3, 3.0, name="b")
    found = lines(tmp_path / "samples.jsonl")
    assert found == [
        {"step": 1, "samples": ["a1", "a"]},
        {"step": 2, "samples": ["a2", "a"]},
        {"step": 3, "samples": ["b3", "b"]},
    ]
    write(tmp_path, 1, 3, 3.0)  # not asked for any more: what was made again is not kept
    assert [line["step"] for line in lines(tmp_path / "samples.jsonl")] == [1]


def test_a_skipped_step_says_why(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path / "m", tmp_path / "e", tmp_path / "s", tmp_path / "board", 0, 1)
    writer.step(replace(RECORD, step=1))
    writer.step(replace(RECORD, step=2, skipped=True, skipped_because="spike"))
    writer.close()
    assert [line.get("skipped_because") for line in lines(tmp_path / "m")] == [None, "spike"]


def test_stores_of_a_blend_are_in_their_validation(tmp_path: Path) -> None:
    writer = MetricsWriter(
        tmp_path / "m", tmp_path / "e", tmp_path / "s", tmp_path / "board", finished_steps=0, log_every=1
    )
    figures = {"mlm_loss": 1.5, "nsp_accuracy": None, "mask_only_loss": float("nan")}
    writer.evaluation(replace(EVALUATION, step=4, stores={"a/b": figures}))
    writer.close()
    (record,) = lines(tmp_path / "e")
    assert record["mlm_loss"] == 2.5
    assert record["stores"] == {"a/b": figures | {"mask_only_loss": None}}
    board = EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    assert [event.value for event in board.Scalars("heldout a/b/mlm_loss")] == [1.5]
    assert "heldout/stores" not in board.Tags()["scalars"]


def test_figures_of_parameters_are_scalars_with_the_mean_of_each_kind(tmp_path: Path) -> None:
    writer = MetricsWriter(
        tmp_path / "metrics.jsonl", tmp_path / "eval.jsonl", tmp_path / "samples.jsonl", tmp_path, 0, 1
    )
    writer.parameters(3, {"trust_clamped": {"a.weight": 0.0, "b.bias": 1.0}, "weight_norm": {}})
    writer.close()
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    found = {tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in board.Tags()["scalars"]}
    assert found == {
        "trust_clamped/a.weight": [(3, 0.0)],
        "trust_clamped/b.bias": [(3, 1.0)],
        "parameters/trust_clamped_mean": [(3, 0.5)],
    }


def test_a_measured_noise_scale_is_in_the_line_of_its_step_and_a_scalar_at_once(tmp_path: Path) -> None:
    """Points in TensorBoard do not wait for `log_every`; what is not known yet is null and no point."""
    writer = MetricsWriter(tmp_path / "m", tmp_path / "e", tmp_path / "s", tmp_path / "board", 0, log_every=9)
    writer.step(replace(RECORD, step=1))
    writer.step(replace(RECORD, step=2, noise={"noise_scale": None, "noise_trace": -2.5}))
    writer.step(replace(RECORD, step=4, noise={"noise_scale": 8.0, "noise_trace": 3.0}))
    writer.close()
    found = lines(tmp_path / "m")
    assert "noise_scale" not in found[0] and not any("noise" in line for line in found)
    assert [(line["noise_scale"], line["noise_trace"]) for line in found[1:]] == [(None, -2.5), (8.0, 3.0)]
    board = EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    points = {tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in board.Tags()["scalars"]}
    assert points == {"train/noise_scale": [(4, 8.0)], "train/noise_trace": [(2, -2.5), (4, 3.0)]}


def test_a_second_validation_after_the_same_step_supersedes_the_first(tmp_path: Path) -> None:
    write(tmp_path, 0, 8, 3.0)
    with MetricsWriter(
        tmp_path / "m", tmp_path / "eval.jsonl", tmp_path / "s", tmp_path / "board", 8, 1
    ) as writer:
        writer.evaluation(replace(EVALUATION, step=8, mlm_loss=1.0))
        writer.evaluation(replace(EVALUATION, step=8, mlm_loss=2.0))
    found = [(line["step"], line["mlm_loss"]) for line in lines(tmp_path / "eval.jsonl")]
    assert found == [(4, 3.0), (8, 2.0)]


def test_a_full_disk_is_told_by_the_file_once(tmp_path: Path) -> None:
    """TensorBoard's file lies elsewhere; what could not be written is not tried again when all are closed."""
    try:
        with (
            small_disk(tmp_path / "disk", "64k") as disk,
            pytest.raises(OSError, match="No space left") as error,
            MetricsWriter(disk / "m", disk / "e", disk / "s", tmp_path / "board", 0, 1) as writer,
        ):
            for step in range(1, 10_000):
                writer.step(replace(RECORD, step=step))
    except NotHere as reason:
        pytest.skip(str(reason))
    assert error.value.filename == str(tmp_path / "disk" / "m")
