"""The search on this machine: what it says of a small model, beside the plan of a run as it recommends."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.data.batches import Batch
from pretrain.plan import fitting, planning
from pretrain.plan.passes import Passes
from tests.command.runs import STORE, command
from tests.worlds import ROOT

MIB = 1 << 20
TINY = ("--data", STORE, "--device=cpu", "model.preset=bert-tiny", "data.seq_len=32", "train.global_batch=24")
QUICK = ("--tune", "--seconds=0.01")


@pytest.fixture(autouse=True)
def known_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """To measure them takes seconds, and gives other bytes each time."""

    class Known:
        def __init__(self, backend: str) -> None:
            pass

        def num_bytes(self) -> int:
            return 500 * MIB

        def close(self) -> None:
            pass

    monkeypatch.setattr(planning, "Libraries", Known)


def planned(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    capsys.readouterr()
    assert command("plan", "--json", *TINY, *arguments) == 0, capsys.readouterr().err
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.fixture
def whole_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates that rise with the rows, so that nothing ends the search but what the test says."""
    monkeypatch.setattr(Passes, "seconds", lambda self, batch: 1e-3 + 1e-6 * len(batch.input_ids))


def test_stopped_it_prints_what_was_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(passes: Passes, batch: Batch) -> float:
        if len(batch.input_ids) == 4:
            raise KeyboardInterrupt
        return 1e-3

    monkeypatch.setattr(Passes, "seconds", seconds)
    assert command("plan", *TINY, *QUICK) == 75
    captured = capsys.readouterr()
    out = " ".join(captured.out.split())
    assert "Stopped by SIGINT: nothing else was tried" in out
    assert "Recommended: train.micro_batch=2 train.activation_checkpointing=none" in out
    assert captured.err.endswith("error: stopped by SIGINT before it was done; start it again.\n")


def chosen_peak(document: dict[str, Any]) -> tuple[int, int]:
    """(peak, activations), bytes."""
    (chosen,) = (each for each in document["memory"]["stages"] if each["chosen"])
    return chosen["peak_bytes"], chosen["activations"]


def test_it_recommends_what_the_plan_of_such_a_run_bears_out(
    capsys: pytest.CaptureFixture[str], whole_search: None
) -> None:
    """24 rows over two ranks are 12 for each. Rates rise, so all of them are taken at once, and nothing recomputed; the
    peak is that of the plan with measured activations, which are those that are traced."""
    found = planned(capsys, *QUICK, "--ranks=2")
    tuning = found["tuning"]
    assert tuning["recommended"] == {
        "train.micro_batch": 12,
        "train.activation_checkpointing": "none",
        "accumulation": 1,
        "overrides": ["train.micro_batch=12", "train.activation_checkpointing=none"],
    }
    assert {each["checkpointing"] for each in tuning["trials"]} == {"none", 2, "full"}
    assert [each["rows"] for each in tuning["trials"] if each["checkpointing"] == "full"] == [
        1,
        2,
        4,
        8,
        6,
        12,
    ]
    assert [each["rows"] for each in tuning["trials"] if not each["divides"]] == [8, 8, 8]
    held = [each["activation_bytes"] for each in tuning["trials"] if each["rows"] == 12]
    assert held[2] < 0.9 * held[0]  # both layers recomputed, and none
    best = max(tuning["trials"], key=lambda each: (each["rows"], each["activation_bytes"]))
    assert best["tokens_per_second"] == best["tokens"] / best["seconds"] and best["tokens"] <= 12 * 32
    again = planned(capsys, "--ranks=2", *tuning["recommended"]["overrides"])
    assert again["engine"]["accumulation"] == 1
    peak, activations = chosen_peak(again)
    assert best["activation_bytes"] == pytest.approx(activations, rel=0.05)
    assert best["peak_bytes"] - best["activation_bytes"] == pytest.approx(peak - activations, abs=MIB / 4)


def test_on_a_cpu_what_is_planned_too_large_is_not_measured(
    capsys: pytest.CaptureFixture[str], whole_search: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def peak_bytes(self: Passes, batch: Batch) -> int:
        sizes.append(len(batch.input_ids))
        return MIB

    monkeypatch.setattr(Passes, "peak_bytes", peak_bytes)
    found = planned(capsys, *QUICK, "--memory=0.01")["tuning"]
    assert sizes == [] and found["trials"] == [] and found["recommended"] is None
    assert [each["rows"] for each in found["not_tried"]] == [1, 1, 1]
    assert "by the plan a rank would take" in found["not_tried"][0]["reason"]


def test_out_of_memory_ends_one_way_and_not_the_search(
    capsys: pytest.CaptureFixture[str], whole_search: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a GPU says it, from 8 rows on; the next way has a model of its own."""

    def take(self: Passes, batch: Batch) -> None:
        if len(batch.input_ids) >= 8:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Passes, "take", take)
    found = planned(capsys, *QUICK)["tuning"]
    assert {each["rows"] for each in found["trials"]} == {1, 2, 3, 4, 6}
    assert {(each["rows"], each["reason"]) for each in found["not_tried"]} == {
        (8, "out of memory on this device")
    }
    assert found["recommended"]["train.micro_batch"] == 6


def test_the_tables_end_with_what_to_type(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, whole_search: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds_config = tmp_path / "ds.json"
    ds_config.write_text(json.dumps({"gradient_accumulation_steps": 4}))
    monkeypatch.setattr(fitting, "LADDER", {"bert-tiny": fitting.LADDER["bert-tiny"]})  # each size is traced
    arguments = (*TINY, *QUICK, "--fits", "--memory=0.6", "--ds_config", ds_config)
    assert command("plan", *arguments) == 0
    captured = capsys.readouterr()
    out = " ".join(captured.out.split())
    for part in (
        "What fits into 0.60 GiB of a rank",
        "every 2 layers",
        "Measured on this machine (CPU, ",
        "recommended",
        "Not tried: checkpointing none, 32 rows or more: a micro-batch that divides every step has 24 rows at most.",
        "Recommended: train.micro_batch=24 train.activation_checkpointing=none, which is 1 micro-batch(es) of 24 rows",
        'The ds_config says gradient_accumulation_steps: 4, which does not go with it: write "auto" there.',
    ):
        assert part in out, part
    assert captured.err.splitlines()[0].startswith("checkpointing none, 1 rows: ")


@pytest.mark.slow
@pytest.mark.in_full("compiles six times")
def test_compiled_where_the_recipe_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--tune", "--seconds=0.2", "train.compile=true", "train.global_batch=2")
    found = planned(capsys, *arguments)["tuning"]
    assert found["compiled"] and [each["rows"] for each in found["trials"]] == [1, 2] * 3
    assert found["recommended"] is not None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("argument", "part"),
    [
        ("--tune", "--tune measures on this machine, which has no GPU"),
        ("--fits", "how many GiB it has by --memory"),
    ],
)
def test_a_gpu_that_is_elsewhere(capsys: pytest.CaptureFixture[str], argument: str, part: str) -> None:
    recipe = ("--recipe", ROOT / "launch/recipes/demo.toml")
    assert command("plan", "--data", STORE, *recipe, "--device=cuda", argument) == 2
    captured = capsys.readouterr()
    assert part in captured.err and captured.err.count("\n") == 1 and captured.out == ""
