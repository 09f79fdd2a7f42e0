"""Each benchmark in its quick form, as a user types it: that it runs to its end and writes what it found."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.worlds import run_command

_SECONDS = 600.0  # a machine may have other work; alone, each takes less than half a minute


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def quick(module: str, cache: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    """The JSON document and the printed table."""
    output = cache / "results" / f"{module}.json"
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", "--quick", "--cache", str(cache)]
    result = run_command([*command, "--output", output, *arguments], timeout=_SECONDS)
    assert result.returncode == 0, result.stderr
    return json.loads(output.read_text()), result.stdout


@pytest.mark.slow
@pytest.mark.in_full("builds are tried apart, and what each peer prints")
def test_data_prep(cache: Path) -> None:
    found, printed = quick("data_prep", cache, "--kinds", "bpe")
    peers = {entry["peer"]: entry for entry in found["kinds"]["bpe"]}
    assert {"ours", "encode_batch_fast", "run_mlm"} <= {
        name for name, each in peers.items() if "rate" in each
    }
    assert "--megatron" in peers["Megatron-LM"]["not_run"]
    (ours,), (theirs,) = peers["ours"]["trials"], peers["encode_batch_fast"]["trials"]
    # The amount of ours is that of its steady part.
    tokens_per_byte = ours["tokens"] / ours["timings"]["encoded_bytes"]
    assert tokens_per_byte == pytest.approx(theirs["tokens"] / theirs["amount"], rel=0.02)
    assert set(found["stages_cpu_ms_per_mb"]["bpe"]) >= {"read", "write"}
    assert "CPU milliseconds per MB" in printed


@pytest.mark.slow
@pytest.mark.in_full("a store is built for it; batches are tried apart")
def test_batches(cache: Path) -> None:
    found, printed = quick("batches", cache)
    assert set(found["groups"]) >= {"nsp, 128", "mlm, 512", "sop, 128", "mlm, whole words, 512"}
    for ours, collator, loader in found["groups"].values():
        assert 0.9 < ours["trials"][0]["real_share"] <= 1
        assert collator["rate"] > 0 and loader["rate"] > 0
    assert "whole words" in printed


@pytest.mark.slow
@pytest.mark.in_full("builds are tried apart; what is measured here is their memory")
def test_memory(cache: Path) -> None:
    found, printed = quick("memory", cache)
    for build in found["builds"].values():
        assert [peak["role"] for peak in build["peaks"]].count("worker") == 2
    assert "all together" in printed


@pytest.mark.slow
@pytest.mark.in_full("writes a store of ten milliards of tokens")
def test_start(cache: Path) -> None:
    found, printed = quick("start", cache, "--rounds", "1")
    assert found["tokens"] >= 10**10
    for [run] in found["runs"].values():
        assert 0 < run["open_seconds"] < run["first_batch_seconds"]
        assert run["imported_bytes"] <= run["opened_bytes"] <= run["first_batch_bytes"] <= run["end_bytes"]
    assert "random batches/s" in printed


@pytest.mark.slow
def test_optimizer(cache: Path) -> None:
    found, printed = quick("optimizer", cache)
    assert found["models"]["bert-tiny"]["parameters"] > 4e6
    peers = found["models"]["bert-tiny"]["peers"]
    assert peers["torch AdamW, fused"]["times_fused"] == 1.0
    assert peers["LAMB"]["times_fused"] > 0 and len(peers["LAMB, one flat shard"]["trials"]) == 3
    assert 0 < found["share"]["share"] < 1
    assert found["kernels"] == "numba"
    moved = {name: each["bytes_per_second"] for name, each in peers.items()}
    assert moved["LAMB"] * min(peers["LAMB"]["trials"]) == pytest.approx(
        44 * found["models"]["bert-tiny"]["parameters"]
    )
    assert found["copy_bytes_per_second"] > 0 and moved["clip_grad_norm_, torch AdamW, fused"] is None
    assert "training step" in printed


@pytest.mark.slow
@pytest.mark.in_full("a save is tried apart, in many ways")
def test_saving(cache: Path) -> None:
    found, printed = quick("saving", cache)
    ours, plain = found["peers"]["ours"], found["peers"]["torch.save on rank 0"]
    assert len(ours) == len(plain) == 2
    state_bytes = 12 * found["parameters"]
    for one, other in zip(ours, plain, strict=True):
        assert 0 < one["waited"] < one["whole"]
        assert other["waited"] == other["whole"] > 0
        # Each rank writes its half, and the headers; or rank 0 writes all.
        first, second = one["bytes_by_rank"]
        assert abs(first - second) < state_bytes / 50 and state_bytes < first + second < 1.02 * state_bytes
        assert other["bytes_by_rank"][1] == 0 and other["bytes_by_rank"][0] > state_bytes
    assert "training waits" in printed


@pytest.mark.slow
@pytest.mark.in_full("an ordinary LAMB is red among the mutants, too")
def test_naive_lamb(cache: Path) -> None:
    found, printed = quick("naive_lamb", cache)
    plain, *runs = found["runs"]
    assert len(plain["losses"]) == found["steps"] == 20
    deviations = {(run["name"], run["ranks"]): run["loss_deviation"] for run in runs}
    assert all(
        deviation < 2e-6 if name == "ours" else deviation > 2e-3
        for (name, _), deviation in deviations.items()
    )
    assert len(deviations) == 4
    assert "trust ratios" in printed


@pytest.mark.slow
@pytest.mark.in_full("four runs, and a store of the demo text")
def test_large_batch(cache: Path) -> None:
    found, printed = quick("large_batch", cache)
    tried = {(run["optimizer"], run["batch"]): run for run in found["runs"]}
    assert list(tried) == [("lamb", 64), ("lamb", 128), ("adamw", 64), ("adamw", 128)]
    for (name, batch), run in tried.items():
        assert run["steps"] * batch == found["rows"]
        assert run["lr"] == pytest.approx(tried[name, 64]["lr"] * math.sqrt(batch / 64))
        assert 0 < run["mlm_loss"] < math.log(2048) + 0.5
    assert "AdamW" in printed
    results = cache / "results"
    assert (results / "large_batch.md").read_text().count("\n") == 2 + len(tried)
    assert "</svg>" in (results / "large_batch.svg").read_text()


@pytest.mark.slow
def test_training(cache: Path) -> None:
    found, printed = quick("training", cache)
    one, two, parts = ({each["peer"]: each for each in group} for group in found["groups"].values())
    assert all("rate" in each for group in (one, two, parts) for each in group.values())
    for group in (one, two):
        # About as many real tokens a step on both sides, on all ranks together.
        for each in group.values():
            assert each["trials"][0]["tokens_per_step"] == pytest.approx(1024, rel=0.2), each["peer"]
    assert "accelerate and DeepSpeed 2, lines, 8 rows" in one and len(one) == 6 and len(two) == 4
    real = {name: each["trials"][0]["real_share"] for name, each in one.items()}
    padded, longest = ("HF Trainer, lines, 8 rows" + form for form in (", padded to seq_len", ""))
    assert real[padded] < real[longest] < real["HF Trainer, lines, 64 rows, grouped by length"] <= 1
    assert real["HF Trainer, concatenated, 32 rows, a loader's worker"] == 1 and real["ours"] > 0.9
    assert found["headline"]["BERT-tiny, 32"]["peer"] == longest
    assert parts["on lines, unpacked"]["trials"][0]["tokens_per_step"] == pytest.approx(1024, rel=0.2)
    assert "without masked-only head" in parts and parts["without our optimizer"]["ours_over_it"] > 0
    trials = [trial for group in (one, two, parts) for each in group.values() for trial in each["trials"]]
    assert (
        all(trial["discarded"] == [] for trial in trials)
        and one["ours"]["trials"][0]["data_wait_per_step"] > 0
    )
    assert "two ranks" in printed


@pytest.mark.slow
@pytest.mark.in_full("ours and DDP by hand are in the quick form of `training`")
def test_backends(cache: Path) -> None:
    found, printed = quick("backends", cache)
    two = found["worlds"]["2"]
    assert list(two) == ["bare loop, one process", "bare loop, DDP", "deepspeed 2", "fsdp 2"]
    assert two["bare loop, one process"]["times_bare"] == 1.0 == two["bare loop, DDP"]["times_ddp"]
    assert two["fsdp 2"]["times_bare"] > 0 and two["fsdp 2"]["details"][0]["data_wait_per_step"] > 0
    # The same rows on both ranks together as in the one process.
    tokens = [each["details"][0]["tokens_per_step"] for each in two.values()]
    assert max(tokens) < 1.1 * min(tokens)
    assert "times bare loop, DDP" in printed


@pytest.mark.slow
def test_operators(cache: Path) -> None:
    found, printed = quick("operators", cache)
    (cell,) = found["cells"].values()
    shares = cell["shares"]
    assert cell["seconds"] > 0 and all(share >= 0 for share in shares.values())
    assert sum(shares.values()) < 1.1 and min(shares["matrix products"], shares["dropout"]) > 0
    assert cell["flops"]["matrix products"] > cell["flops"]["attention"] > 0
    assert sum(cell["seconds_by_kind"].values()) > 0 and "at the ceiling" in printed
    assert "no operator" in printed and "no operator" in (cache / "results" / "operators.md").read_text()


@pytest.mark.slow
@pytest.mark.in_full("its rules are tried apart; what it trains, `training` trains too")
def test_time_to_loss(cache: Path) -> None:
    found, printed = quick("time_to_loss", cache)
    uniform = math.log(2048)
    runs = [*found["trainer_tries"], *found["our_tries"], *found["targets"], *found["our_runs"][0]]
    assert all(0 < run["loss"] < uniform + 0.5 and 0 < run["loss_of_lines"] < uniform + 0.5 for run in runs)
    assert {run["name"] for run in runs} == {"HF Trainer", "ours"}
    assert all(run["others_share"] >= 0 for run in runs)
    assert found["targets"][0]["steps"] > 2 and "asked: 4" in printed


@pytest.mark.slow
def test_gpu(cache: Path) -> None:
    found, printed = quick("gpu", cache)
    ours, trainer = found["groups"]["bert-tiny, 32"]
    assert ours["rate"] > 0 and trainer["rate"] > 0, trainer.get("not_run")
    assert ours["trials"][0]["flops_per_second"] > 0
    assert found["ceilings"]["product_flops"] > 0 and "GB/s" in printed


@pytest.mark.slow
@pytest.mark.in_full("a run is held beside its plan by `pretrain plan`'s own test")
def test_plan_memory(cache: Path) -> None:
    found, printed = quick("plan_memory", cache)
    (cell,) = found["cells"]
    assert len(cell["measured_by_rank"]) == 2 and cell["measured"] == max(cell["measured_by_rank"])
    assert abs(cell["ratio"] - 1) < 0.1
    assert "plan / measured" in printed


@pytest.mark.slow
def test_activations(cache: Path) -> None:
    found, printed = quick("activations", cache)
    (cell,) = found["cells"]
    assert 0 < cell["saved"] < cell["peak"] and abs(cell["ratio"] - 1) < 0.1
    assert "peak / plan" in printed
