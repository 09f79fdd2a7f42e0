"""Steps, epochs, FLOPs, rates and time by hand, on a store whose rows are known."""

import json
from pathlib import Path

import pytest

from pretrain.errors import DataError
from pretrain.faults.tiny import VOCAB_SIZE
from pretrain.plan import measured_rate
from tests.command.runs import command
from tests.plan.stores import NUM_DOCUMENTS, planned, write_even_store

RUN = ("data.objective=mlm", "model.preset=bert-tiny", "train.global_batch=8", "data.mask_probability=0.1")


def test_length_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = write_even_store(tmp_path / "store")
    found = planned(
        capsys, "--data", store, *RUN, "data.seq_len=32", "train.steps=50", "--tokens-per-second", "1000"
    )
    rows, course = found["rows"], found["course"]
    assert (rows["samples_per_row"], rows["tokens_per_row"], rows["padding_share"]) == (1.0, 32.0, 0.0)
    assert rows["masked_per_row"] == 3 and rows["masked_share"] == 3 / 32
    assert rows["stores"][0]["rows_per_epoch"] == NUM_DOCUMENTS
    (batch,) = course["batches"]
    assert [batch[name] for name in ("rows", "samples", "tokens", "masked")] == [8, 8, 256, 24]
    assert (course["steps"], course["rows"], course["tokens"]) == (50, 400, 12_800)
    assert course["epochs"] == [4.0]
    assert found["time"]["seconds"] == 12.8
    hidden, layers = 128, 2
    flops = 256 * (6 * layers * 12 * hidden**2 + 12 * layers * hidden * 32)
    flops += 24 * 6 * (hidden**2 + hidden * VOCAB_SIZE)
    assert batch["flops"] == flops and course["flops"] == 50 * flops


def test_a_part_of_the_store_stands_for_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = write_even_store(tmp_path / "store")
    found = planned(
        capsys, "--data", store, *RUN, "data.seq_len=40", "data.window_blocks=10", "train.steps=50"
    )
    rows = found["rows"]
    assert rows["stores"][0]["rows"] == 10 and rows["stores"][0]["rows_per_epoch"] == NUM_DOCUMENTS
    assert rows["padding_share"] == pytest.approx(8 / 40) and found["course"]["epochs"] == [4.0]
    assert found["time"] == {"rate": None, "seconds": None}


def test_what_ends_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = write_even_store(tmp_path / "store")
    arguments = ("--data", store, *RUN, "data.seq_len=32")
    by_tokens = planned(capsys, *arguments, "train.tokens=10000")["course"]
    assert (by_tokens["steps"], by_tokens["ended_by"]) == (40, "train.tokens")  # 256 a step: 39.06
    hours = ("train.hours=0.01", "train.steps=50", "--tokens-per-second=100")
    by_hours = planned(capsys, *arguments, *hours)["course"]
    assert (by_hours["steps"], by_hours["ended_by"]) == (15, "train.hours")  # 36 s: 3,600 tokens, 14.06 steps


def test_stages_and_rates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = write_even_store(tmp_path / "store")
    found = planned(
        capsys,
        *("--data", store, *RUN, "data.seq_len=32", "train.steps=30", "train.batch_stages=[[10, 4]]"),
        *("optimizer.lr=0.008", "schedule.warmup=5", "optimizer.lr_scaling=sqrt"),
    )
    assert [(each["steps"], each["rows"]) for each in found["course"]["batches"]] == [(10, 4), (20, 8)]
    assert found["course"]["rows"] == 200
    rates = {each["step"]: each["lr"] for each in found["learning_rate"]}
    # Warm-up over 5 steps, then a line to 0 at 30; half the rows have the rate over the root of 2.
    half = 0.5**0.5
    assert rates == pytest.approx(
        {1: 0.0016 * half, 5: 0.008 * half, 11: 0.008 * 20 / 25, 18: 0.008 * 13 / 25, 30: 0.008 / 25}
    )


def test_the_rate_of_a_finished_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, run = write_even_store(tmp_path / "store"), tmp_path / "run"
    run.mkdir()
    rates = [1.0, 2.0, 3.0, 400.0, 500.0, 900.0]
    (run / "metrics.jsonl").write_text(
        "".join(json.dumps({"tokens_per_second": each}) + "\n" for each in rates)
    )
    (run / "config.json").write_text(
        json.dumps({"run": {"ranks": 8, "backend": "fsdp", "stage": 2, "precision": "bf16"}})
    )
    found = planned(capsys, "--data", store, *RUN, "data.seq_len=32", "train.steps=50", "--run", run)
    assert found["time"]["seconds"] == 12_800 / 500
    assert "8 ranks, fsdp stage 2, bf16" in found["time"]["rate"]["origin"]


def test_the_rate_is_that_of_the_last_batch(tmp_path: Path) -> None:
    """After steps of other rows: those take other times."""
    records = [{"tokens_per_second": 10.0, "global_batch": 4} for _ in range(9)]
    records += [{"tokens_per_second": rate, "global_batch": 8} for rate in (30.0, 20.0, 40.0)]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in records))
    found = measured_rate(tmp_path)
    assert (found.tokens_per_second, found.rows) == (30.0, 8)
    assert found.origin.startswith("median of 3 steps of ")


@pytest.mark.parametrize(
    "line", [b"\xff", b"[1]", b'{"tokens_per_second": 0}', b'{"tokens_per_second": NaN}', b'{"step": 1}']
)
def test_a_line_that_is_no_step(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"tokens_per_second": 5.0}\n' + line + b"\n")
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 2 is no record of a step"):
        measured_rate(tmp_path)


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"tokens_per_second": 5.0}\n{"tokens_per_sec')
    assert measured_rate(tmp_path).tokens_per_second == 5.0


def test_a_time_that_no_calendar_has(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    store = write_even_store(tmp_path / "store")
    typed = ("--data", store, *RUN, "data.seq_len=32", "train.steps=50", "--tokens-per-second=1e-12")
    assert command("plan", *typed) == 0
    assert "4.06e+08 years" in capsys.readouterr().out
