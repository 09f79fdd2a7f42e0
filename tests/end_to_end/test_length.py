"""Runs that end by their tokens or by the clock, and what their rate, checkpoint and model then are."""

import json
from pathlib import Path
from typing import Any

import pytest

from pretrain.faults.tiny import write_tiny_store
from tests.end_to_end.runs import contents, pretrain_each, steps_of, write_model

pytestmark = pytest.mark.slow
TOKENS = 700
PEAK = 0.004


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of four padded rows a step: one by tokens, whole and in two starts; one by the clock; two with rules."""
    path = tmp_path_factory.mktemp("length")
    write_tiny_store(path / "store", 60)
    write_model(path / "tiny.json")
    by_tokens = (f"train.tokens={TOKENS}", "schedule.warmup=2")
    rules = (
        "train.steps=3",
        "optimizer.lr_scaling=sqrt",
        "optimizer.base_batch=16",
        "data.packing=true",
        "train.global_batch=64",
        "data.short_sample_probability=1.0",
    )
    cases = [
        case("tokens", *by_tokens),
        case("stopped", *by_tokens, "train.stop_at_step=4"),
        case("stopped", *by_tokens),
        case("stopped", *by_tokens),
        case("hours", "train.steps=100000", "train.hours=0.0004"),
        case("hours", "train.steps=100000", "train.hours=0.0004"),
        case("rules", *rules, "schedule.warmup_samples=150", "schedule.end_share=0.5"),
        case("too-long", *rules, "schedule.warmup_samples=1000"),
        case(
            "sgd", "train.steps=3", "optimizer.name=sgd", "train.label_smoothing=0.1", "schedule.name=cosine"
        ),
    ]
    ends = pretrain_each(cases, path)
    for name, end in zip(
        ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine"), ends, strict=True
    ):
        (path / f"{name}.json").write_text(json.dumps([end.returncode, end.stdout, end.stderr]))
    return path


def case(name: str, *overrides: str) -> list[str]:
    shape = ("data.seq_len=32", "data.packing=false", "train.global_batch=4", "eval.rows=2", "log.every=1")
    options = ("--data", "store", "--output", name, "--backend", "fsdp", "model.config=tiny.json")
    settings = {each.partition("=")[0]: each for each in (*shape, f"optimizer.lr={PEAK}", *overrides)}
    return [*options, *settings.values()]


def end_of(folder: Path, number: str) -> tuple[int, str, str]:
    code, out, err = json.loads((folder / f"{number}.json").read_text())
    return code, out, err


def metrics_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_by_tokens_ends_at_the_first_step_that_reaches_them(folder: Path) -> None:
    code, out, err = end_of(folder, "one")
    assert code == 0, err
    records = metrics_of(folder / "tokens")
    seen = [sum(record["tokens"] for record in records[:count]) for count in range(len(records) + 1)]
    assert seen[-2] < TOKENS <= seen[-1]
    assert len(records) > TOKENS / (4 * 32)  # padding does not count
    assert f"Done: {len(records)} steps, by train.tokens" in out
    # Warm-up by steps, then in a straight line by what was there before the step, of the tokens left after warm-up.
    warmed_up = 2 * 4 * 32 / TOKENS  # of two steps of full rows
    rates = [PEAK * min(1.0, 1 - (before / TOKENS - warmed_up) / (1 - warmed_up)) for before in seen[2:-1]]
    assert [record["lr"] for record in records] == pytest.approx([PEAK / 2, PEAK, *rates])
    assert (folder / "tokens" / "model" / "model.safetensors").exists()
    evaluated = [
        json.loads(line)["step"] for line in (folder / "tokens" / "eval.jsonl").read_text().splitlines()
    ]
    assert evaluated == [len(records)]


def test_by_tokens_in_two_starts_is_the_same_run(folder: Path) -> None:
    assert end_of(folder, "two")[0] == 75
    assert end_of(folder, "three")[0] == 0
    whole, stopped = (metrics_of(folder / name) for name in ("tokens", "stopped"))
    for key in ("step", "loss", "lr", "cursor", "tokens"):
        assert [each[key] for each in stopped] == [each[key] for each in whole], key
    assert contents(folder / "stopped" / "model") == contents(folder / "tokens" / "model")
    assert f"is finished: {len(whole)} steps" in end_of(folder, "four")[1]


def test_by_the_clock_ends_as_the_last_step_does(folder: Path) -> None:
    """1.44 seconds of training."""
    code, out, err = end_of(folder, "five")
    assert code == 0, err
    steps = steps_of(folder / "hours")
    assert steps == list(range(1, len(steps) + 1)) and 1 <= len(steps) < 100_000
    assert f"Done: {len(steps)} steps, by train.hours" in out
    latest = (folder / "hours" / "checkpoints" / "latest").read_text().strip()
    assert latest == f"step-{len(steps):08d}"
    state = json.loads((folder / "hours" / "checkpoints" / latest / "manifest.json").read_text())["state"]
    assert state["seconds"] >= 1.44
    assert (folder / "hours" / "model" / "config.json").exists()
    # Started again there is nothing left to do.
    assert f"is finished: {len(steps)} steps" in end_of(folder, "six")[1]
    # The rate is that of 100,000 steps: still in the demo recipe's warm-up, over 2% of them.
    assert metrics_of(folder / "hours")[0]["lr"] == pytest.approx(PEAK / 2_000)


def test_rules_by_samples_and_where_the_rate_came_from(folder: Path) -> None:
    code, _, err = end_of(folder, "seven")
    assert code == 0, err
    records = metrics_of(folder / "rules")
    schedule = json.loads((folder / "rules" / "config.json").read_text())["schedule"]
    samples = schedule["samples_per_step"]
    assert samples == records[0]["samples"] > 64
    assert schedule["peak_lr"] == pytest.approx(PEAK * (samples / 16) ** 0.5)
    assert schedule["end_lr"] == pytest.approx(0.5 * schedule["peak_lr"])
    assert schedule["warmup_steps"] == -(-150 // samples)
    assert f"scaled to {samples:g} by optimizer.lr_scaling = sqrt" in schedule["peak_lr_origin"]
    assert max(record["lr"] for record in records) == pytest.approx(schedule["peak_lr"])


def test_a_warm_up_in_samples_that_does_not_end_is_refused(folder: Path) -> None:
    code, _, err = end_of(folder, "eight")
    assert code == 2
    assert "schedule.warmup_samples is 1000, which are" in err
    assert "but the run has 3: warm-up must end within it." in err


def test_sgd_trains_and_is_saved_with_its_own_moments(folder: Path) -> None:
    code, _, err = end_of(folder, "nine")
    assert code == 0, err
    (manifest,) = (folder / "sgd" / "checkpoints").glob("step-*/manifest.json")
    assert json.loads(manifest.read_text())["kinds"] == ["master", "momentum_buffer"]
