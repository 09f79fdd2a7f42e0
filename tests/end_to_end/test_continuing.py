"""Runs that diverge, are taken up from an older step, or died between their last step and their model."""

import json
from pathlib import Path

import pytest

from pretrain.faults.tiny import write_tiny_store
from tests.end_to_end.runs import contents, error_of, launcher, pretrain, steps_of, write_model


@pytest.fixture
def options(tmp_path: Path) -> tuple[str, ...]:
    """A tiny run of two rows a step; `train.steps` is left to the test."""
    write_tiny_store(tmp_path / "store", 60)
    model = write_model(tmp_path / "tiny.json")
    shape = ("data.seq_len=32", "train.global_batch=2", "eval.rows=2", "log.every=1")
    return ("--data", "store", "--output", "run", f"model.config={model}", *shape)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_run_that_diverges_says_so(tmp_path: Path, options: tuple[str, ...], stage: int) -> None:
    """ZeRO declines such a step by itself, stage 0 leaves it to our optimizer: one sentence all the same."""
    (tmp_path / "ds.json").write_text(json.dumps({"zero_optimization": {"stage": stage}}))
    result = pretrain(
        *options,
        "--ds_config",
        "ds.json",
        "train.steps=4",
        "optimizer.lr=1e38",
        "schedule.warmup=0",
        cwd=tmp_path,
    )
    assert result.returncode == 1
    said = error_of(result.stderr)
    assert "Step 2 is not finite" in said and "it began on rank 0" in said
    details = json.loads((tmp_path / "run" / "not-finite-step-00000002.json").read_text())
    assert details["came_again"] and details["cursor"] == [0, 0, 2]
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["skipped"] and last["grad_norm"] is None
    assert last["skipped_because"] == "not finite"
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param("deepspeed", marks=pytest.mark.in_full("its launcher is tried often")), "torchrun"]
)
def test_two_ranks_that_diverge_say_one_thing(tmp_path: Path, options: tuple[str, ...], name: str) -> None:
    """And both end, though each has found something."""
    backend = ("--backend", "fsdp") if name == "torchrun" else ()
    limits = ("train.steps=4", "optimizer.lr=1e38", "schedule.warmup=0", "train.micro_batch=1")
    result = launcher(name, *options, *backend, *limits, cwd=tmp_path)
    assert result.returncode == 1
    said = error_of(result.stderr)
    assert "it began on rank 0" in said and "1 more such micro-batches on 2 ranks" in said
    details = json.loads((tmp_path / "run" / "not-finite-step-00000002.json").read_text())
    assert [(each["rank"], each["micro_batch"]) for each in details["findings"]] == [(0, 0), (1, 0)]


def test_an_older_step_becomes_the_latest_and_a_missing_export_is_made_up_for(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    run = tmp_path / "run"
    often = (*options, "--backend", "fsdp", "train.steps=4", "checkpoint.every=1", "checkpoint.keep=9")
    assert pretrain(*often, cwd=tmp_path).returncode == 0
    model = contents(run / "model")

    older = ("--resume", str(run / "checkpoints" / "step-00000002"))
    stopped = pretrain(*often, *older, "train.stop_at_step=3", "optimizer.lr=0.002", cwd=tmp_path)
    assert stopped.returncode == 75
    again = pretrain(*often, "optimizer.lr=0.002", cwd=tmp_path)
    assert again.returncode == 0
    assert "step-00000003 after step 3" in again.stdout
    assert steps_of(run) == [1, 2, 3, 4]
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert [(event["event"], event["step"], event.get("code")) for event in events] == [
        *(
            ("start", 0, None),
            ("end", 4, 0),
            ("start", 2, None),
            ("end", 3, 75),
            ("start", 3, None),
            ("end", 4, 0),
        )
    ]
    assert contents(run / "model") != model

    # Died after the last checkpoint: model/ is of the earlier end.
    newest = contents(run / "model")
    (run / "finished").write_text("2\n")
    (run / "model" / "model.safetensors").write_bytes(b"of an earlier end")
    assert pretrain(*often, "optimizer.lr=0.002", cwd=tmp_path).returncode == 0
    assert contents(run / "model") == newest


def test_another_runs_checkpoint_needs_an_empty_folder_and_is_kept(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    often = (*options, "--backend", "fsdp", "train.steps=2")
    assert pretrain(*often, cwd=tmp_path).returncode == 0
    elsewhere = ("--output", "other", "--resume", "run/checkpoints/step-00000002")
    assert pretrain(*often, *elsewhere, cwd=tmp_path).returncode == 0
    assert contents(tmp_path / "other" / "model") == contents(tmp_path / "run" / "model")
    refused = pretrain(*often, *elsewhere, cwd=tmp_path)
    assert refused.returncode == 2
    assert "already holds a run" in error_of(refused.stderr)


@pytest.mark.parametrize("backend", ["deepspeed", "fsdp"])
def test_deterministic_algorithms_do_all_that_a_run_does(
    tmp_path: Path, options: tuple[str, ...], backend: str, in_full: bool
) -> None:
    """On a CPU nothing changes by them, to the last bit; what has none would end the run."""
    if backend == "fsdp" and not in_full:
        pytest.skip("in full: the same under the other engine")
    losses = []
    for output, chosen in (("plain", "false"), ("deterministic", "true")):
        more = ("--backend", backend, "--output", output, "train.steps=3", f"train.deterministic={chosen}")
        result = pretrain(*options, *more, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        lines = (tmp_path / output / "metrics.jsonl").read_text().splitlines()
        losses.append([(step["loss"], step["grad_norm"]) for step in map(json.loads, lines)])
    assert losses[0] == losses[1] and len(losses[0]) == 3
