"""A second phase from the checkpoint of a first: longer rows, its own warm-up, moments kept or not, a stop in it."""

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
    ]
    endings = run_ranks(start, 2, path, starts, timeout=300.0)[0]
    assert [ending.exit_code for ending in endings] == [0, 0, 75, 0, 0, 0, 0, 3], endings
    assert "is no checkpoint" in endings[-1].message
    assert endings[1] == Ending(0)
    return path


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
