"""A second phase from the checkpoint of a first: longer rows, its own warm-up, moments kept or not, a stop in it."""

import json
from pathlib import Path

import pytest

from tests.numerics.runs import Ending, Start, newest, prepare, records, start
from tests.worlds import run_ranks

pytestmark = pytest.mark.slow
FIRST = ("train.steps=6", "data.seq_len=24", "seed=4")
SECOND = ("train.steps=6", "schedule.warmup=3", "schedule.name=constant", "optimizer.lr=0.004")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("phases")
    prepare(path)
    kept = (*SECOND, f"phase.checkpoint={path}/one", "phase.moments=kept")
    reset = (*SECOND, f"phase.checkpoint={newest_name(path)}", "phase.moments=reset")
    starts = [
        Start(path / "one", "deepspeed", "zero2", FIRST),
        Start(path / "kept", "deepspeed", "zero2", kept),
        Start(path / "stopped", "deepspeed", "zero2", (*kept, "train.stop_at_step=2")),
        Start(path / "stopped", "deepspeed", "zero2", kept),
        Start(path / "fsdp", "fsdp", "zero3", (*kept, "model.dropout=0.0")),
        Start(path / "stage3", "deepspeed", "zero3", (*kept, "model.dropout=0.0")),
        Start(path / "reset", "deepspeed", "zero2", reset),
        Start(path / "none", "fsdp", "zero2", (f"phase.checkpoint={path}/nothing",)),
        *in_fp16(path),
    ]
    # Stage 3 replaces torch.nn.functional.linear for good, by one that rounds otherwise.
    starts.sort(key=lambda each: (each.backend, each.engine) == ("deepspeed", "zero3"))
    endings = run_ranks(start, 2, path, starts, timeout=300.0)[0]
    assert [ending.exit_code for ending in endings] == [0, 0, 75, 0, 0, 0, 2, 0, 0, 75, 0, 0], endings
    assert "nothing is not a folder" in endings[6].message
    assert endings[1] == Ending(0)
    return path


def in_fp16(path: Path) -> list[Start]:
    """A first phase that overflows and skips spikes, and a second one, whole and in two starts, that does as well."""
    fp16 = {"enabled": True, "initial_scale_power": 23, "loss_scale_window": 2, "hysteresis": 1}
    (path / "fp16.json").write_text(json.dumps({"zero_optimization": {"stage": 2}, "fp16": fp16}))
    rule = ("train.spike_factor=1.02", "train.spike_window=2")
    first = (*FIRST, *rule, "train.steps=12")
    kept = (*SECOND, *rule, "train.steps=12", f"phase.checkpoint={path}/fp16-one", "phase.moments=kept")
    return [
        Start(path / "fp16-one", "fsdp", "fp16", first),
        Start(path / "fp16-kept", "fsdp", "fp16", kept),
        Start(path / "fp16-stopped", "fsdp", "fp16", (*kept, "train.stop_at_step=8")),
        Start(path / "fp16-stopped", "fsdp", "fp16", kept),
    ]


def newest_name(path: Path) -> Path:
    return path / "one" / "checkpoints" / "step-00000006"


def test_steps_rows_and_rate_begin_anew(folder: Path) -> None:
    found = records(folder / "kept")
    assert [record["step"] for record in found] == [1, 2, 3, 4, 5, 6]
    assert [record["lr"] for record in found] == pytest.approx(
        [0.004 * x for x in (1 / 3, 2 / 3, 1, 1, 1, 1)]
    )
    assert found[0]["cursor"] == [0, 0, 0]
    # The weights are phase 1's: far below ln(vocabulary) already.
    assert found[0]["mlm_loss"] < records(folder / "one")[0]["mlm_loss"] - 0.3
    state = newest(folder / "kept")[1].state
    assert (state.step, state.applied_steps, state.earlier_steps) == (6, 6, 6)


def test_stopped_in_the_second_phase_it_goes_on_bit_for_bit(folder: Path) -> None:
    assert records(folder / "stopped") == records(folder / "kept")
    (_, ours), (_, theirs) = newest(folder / "stopped"), newest(folder / "kept")
    assert [file.sha256 for file in ours.files] == [file.sha256 for file in theirs.files]


def test_a_phase_begins_alike_under_another_engine(folder: Path) -> None:
    one, other = ([record["loss"] for record in records(folder / name)] for name in ("fsdp", "stage3"))
    assert one == pytest.approx(other, rel=1e-6)


def test_reset_begins_with_the_same_weights_and_steps_otherwise(folder: Path) -> None:
    assert newest(folder / "reset")[1].state.earlier_steps == 0
    kept, reset = (records(folder / name) for name in ("kept", "reset"))
    assert kept[0]["loss"] == reset[0]["loss"]
    assert kept[1]["loss"] != reset[1]["loss"]


def test_skipped_steps_of_a_phase_are_no_steps_of_its_moments(folder: Path) -> None:
    one, kept = (records(folder / name) for name in ("fp16-one", "fp16-kept"))
    for found in (one, kept):
        assert {record.get("skipped_because") for record in found} == {None, "overflow", "spike"}
        # Of neither phase does the other's scale, nor its norms, have a part in the first steps.
        assert found[0]["loss_scale"] == 2.0**23
        updates = [record for record in found if not record["skipped"]]
        assert "spike" not in {record.get("skipped_because") for record in found[: updates[1]["step"]]}
    before, state = newest(folder / "fp16-one")[1].state, newest(folder / "fp16-kept")[1].state
    assert state.earlier_steps == before.applied_steps == sum(not record["skipped"] for record in one)
    assert state.applied_steps == sum(not record["skipped"] for record in kept) < 12
    assert state.skipped_tokens == sum(record["tokens"] for record in kept if record["skipped"])


def test_stopped_under_fp16_a_phase_goes_on_bit_for_bit(folder: Path) -> None:
    assert records(folder / "fp16-stopped") == records(folder / "fp16-kept")
    (_, ours), (_, theirs) = newest(folder / "fp16-stopped"), newest(folder / "fp16-kept")
    assert [file.sha256 for file in ours.files] == [file.sha256 for file in theirs.files]
    for key in ("loss_scale", "recent_norms", "spikes_in_row", "earlier_steps", "skipped_tokens"):
        assert getattr(ours.state, key) == getattr(theirs.state, key), key
