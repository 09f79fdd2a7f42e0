"""A run that skips outliers, stopped and started again, is the run that was never stopped."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.numerics.runs import Ending, Start, newest, prepare, records, start
from tests.worlds import run_ranks

pytestmark = pytest.mark.slow

# So near the median that many of the steps after the third are over it. No gradient of these is one that a user
# would skip. By tokens, so that the rate hangs on those that were skipped.
TOKENS = 5500
RULE = (
    f"train.tokens={TOKENS}",
    "train.spike_factor=1.02",
    "train.spike_window=4",
    "log.parameters_every=5",
    "checkpoint.keep=9",
)
HALF = 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spikes")
    prepare(path)
    stop = (f"train.stop_at_step={HALF}",)
    whole = [
        Start(path / "deepspeed", "deepspeed", "zero2", RULE),
        Start(path / "fsdp", "fsdp", "zero3", RULE),
    ]
    half = Start(path / "stopped", "deepspeed", "zero2", RULE + stop)
    endings = run_ranks(start, 2, path, [*whole, half], timeout=240.0)[0]
    assert [ending.exit_code for ending in endings] == [0, 0, 75], endings
    rest = Start(path / "stopped", "deepspeed", "zero2", RULE)
    assert run_ranks(start, 2, path, [rest], timeout=240.0)[0] == [Ending(0)]
    return path


def test_some_steps_are_skipped_and_say_why(folder: Path) -> None:
    found = records(folder / "deepspeed")
    skipped = [record for record in found if record["skipped"]]
    assert 0 < len(skipped) < len(found) - 4
    norms: list[float] = []  # of updates
    for record in found:
        is_spike = len(norms) >= 4 and record["grad_norm"] > 1.02 * sum(sorted(norms[-4:])[1:3]) / 2
        assert record.get("skipped_because") == ("spike" if is_spike else None)
        norms += [] if is_spike else [record["grad_norm"]]
    assert not any("skipped_because" in record for record in found if not record["skipped"])
    state = newest(folder / "deepspeed")[1].state
    assert state.applied_steps == len(found) - len(skipped)
    assert state.skipped_tokens == sum(record["tokens"] for record in skipped)


def test_the_rate_falls_by_the_tokens_of_updates(folder: Path) -> None:
    """From step 5 on, in a straight line over what 4 warm-up steps of full rows leave of the run."""
    found = records(folder / "deepspeed")
    warmed_up = 4 * 8 * 48 / TOKENS
    assert not any(record["skipped"] for record in found[:4])
    learnt = sum(record["tokens"] for record in found[:4])
    for record in found[4:]:
        decayed = max(0.0, (learnt / TOKENS - warmed_up) / (1 - warmed_up))
        assert record["lr"] == pytest.approx(0.01 * (1 - decayed))
        learnt += 0 if record["skipped"] else record["tokens"]


def test_goes_on_bit_for_bit(folder: Path) -> None:
    whole, resumed = records(folder / "deepspeed"), records(folder / "stopped")
    # The first decisions after the stop hang on norms from before it.
    assert any(record["skipped"] for record in whole[HALF : HALF + 4])
    assert resumed == whole
    norms = [record["grad_norm"] for record in whole if not record["skipped"]]
    (_, ours), (_, theirs) = newest(folder / "stopped"), newest(folder / "deepspeed")
    assert [file.sha256 for file in ours.files] == [file.sha256 for file in theirs.files]
    assert ours.state.recent_norms == theirs.state.recent_norms == norms[-4:]


def test_both_backends_skip_the_same_steps_of_the_same_run(folder: Path) -> None:
    """Dropout differs between them only by the cut of the batch, which is one."""
    found = [[record["skipped"] for record in records(folder / name)] for name in ("deepspeed", "fsdp")]
    assert found[0] == found[1]


@pytest.mark.parametrize("backend", ["deepspeed", "fsdp"])
def test_trust_ratios_are_in_tensorboard(folder: Path, backend: str) -> None:
    board = EventAccumulator(str(folder / backend / "tensorboard"))
    board.Reload()
    applied = [r["step"] for r in records(folder / backend) if r["step"] % 5 == 0 and not r["skipped"]]
    for kind in ("trust_ratio", "weight_norm", "update_norm", "trust_clamped"):
        tags = [tag for tag in board.Tags()["scalars"] if tag.startswith(f"{kind}/")]
        assert f"{kind}/bert.embeddings.word_embeddings.weight" in tags
        for tag in tags:
            assert [event.step for event in board.Scalars(tag)] == applied
