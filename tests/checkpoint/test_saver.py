"""Saving beside the training: who waits for whom, who hears of what, and what a rank that is lost leaves behind."""

import os
import time
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
import torch.distributed as dist

from pretrain import comm
from pretrain.checkpoint import (
    Retention,
    Saver,
    SaveReport,
    find_best,
    find_checkpoint,
    load_checkpoint,
    snapshot,
)
from pretrain.checkpoint import commit as committing
from pretrain.errors import PretrainError
from pretrain.faults.small import CUT, WHOLE, contents, make_optimizer, state_at
from pretrain.faults.system_calls import before_each, path_of
from pretrain.optim import LambOptions, ShardedOptimizer, Validations
from pretrain.sharding import ParameterInfo, Shard, ShardLayout, Slice
from tests.checkpoint.saved import save
from tests.worlds import run_ranks

NUMEL = 30_000


def half_optimizer(rank: int) -> ShardedOptimizer:
    """One half of a parameter: a file of 360 kB."""
    optimizer = ShardedOptimizer(
        [torch.nn.Parameter(torch.zeros(1))], LambOptions(), weight_decay=0.0, max_grad_norm=0.0
    )
    piece = Slice(0, rank * NUMEL, 0, NUMEL)
    optimizer.bind(
        ShardLayout((ParameterInfo("a", (2 * NUMEL,)),), (Shard(torch.full((NUMEL,), 1.0 + rank), (piece,)),))
    )
    return optimizer


def step_of(saver: Saver) -> None:
    """What the loop does of it in a step."""
    reports = comm.all_gather_objects(tuple(saver.report()))
    saver.hear(*(sum(each) for each in zip(*reports, strict=True)))


def test_training_goes_on_and_changes_nothing_of_it(tmp_path: Path, one_rank: None) -> None:
    optimizer, goes_on = make_optimizer(*CUT), Event()
    saver = Saver(tmp_path, optimizer, Retention(3), 0)
    expected = contents(optimizer)

    def wait(call: str, subject: Any) -> None:
        if call == "write" and path_of(subject).name.endswith(".safetensors"):
            assert goes_on.wait(60)

    with before_each(wait):
        saver.begin(state_at(5, 100))
        for _ in range(3):
            for shard in optimizer.layout.shards:
                shard.tensor.mul_(2)
            assert saver.report() == SaveReport(0.0, 0.0)
            step_of(saver)
        assert find_checkpoint(tmp_path) is None
        goes_on.set()
        saver.finish()
    assert saver.newest == find_checkpoint(tmp_path) == tmp_path / "step-00000005"
    loaded = make_optimizer(*WHOLE, seed=9)
    load_checkpoint(tmp_path / "step-00000005", loaded, 0, 1)
    for name, values in expected.items():
        assert torch.equal(contents(loaded)[name], values), name


def test_is_committed_by_the_steps_that_follow(tmp_path: Path, one_rank: None) -> None:
    saver = Saver(tmp_path, make_optimizer(*CUT), Retention(3), 0)
    step_of(saver)  # nothing is under way
    saver.begin(state_at(5))
    deadline = time.monotonic() + 60
    while saver.newest is None and time.monotonic() < deadline:
        step_of(saver)
    assert find_checkpoint(tmp_path) == saver.newest == tmp_path / "step-00000005"
    assert saver.report() == SaveReport(0.0, 0.0)


def test_nothing_is_committed_before_all_have_finished(tmp_path: Path, one_rank: None) -> None:
    saver = Saver(tmp_path, make_optimizer(*CUT), Retention(3), 0)
    saver._sizes.append(100)  # as if there were a second rank
    saver.begin(state_at(5))
    while not saver.report().finished:
        time.sleep(0.01)
    saver.hear(1, 0)
    assert saver.report() == SaveReport(1.0, 0.0)  # of its own file, as before
    assert not (tmp_path / ".step-00000005.partial" / "manifest.json").exists()


def test_the_next_save_waits_for_the_one_under_way(tmp_path: Path, one_rank: None) -> None:
    saver = Saver(tmp_path, make_optimizer(*CUT), Retention(3), 0)
    saver.begin(state_at(5))
    saver.begin(state_at(6))
    assert find_checkpoint(tmp_path) == tmp_path / "step-00000005"
    saver.finish()
    saver.finish()
    assert find_checkpoint(tmp_path) == tmp_path / "step-00000006"


def test_best_is_named_and_stays(tmp_path: Path, one_rank: None) -> None:
    saver = Saver(tmp_path, make_optimizer(*CUT), Retention(1, best=True), 0)
    assert find_best(tmp_path) is None
    for step, best in ((5, 5), (10, 10), (15, 10), (20, 10)):
        saver.begin(state_at(step).model_copy(update={"validations": Validations(best, 1.0)}))
        saver.finish()
    assert find_best(tmp_path) == tmp_path / "step-00000010"
    names = ["best", "latest", "step-00000010", "step-00000020"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for name in ("../step-00000010", "step-00000099", "", "latest"):
        (tmp_path / "best").write_text(name)
        assert find_best(tmp_path) is None


def test_a_file_that_shows_late_is_waited_for_and_one_that_never_does_is_named(
    tmp_path: Path, one_rank: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a network file system may show what another machine has written."""
    hidden, looks = tmp_path / "hidden", 0
    saver = Saver(tmp_path, make_optimizer(*CUT), Retention(3), 0)
    about = tmp_path / ".step-00000005.partial" / "rank-00000.json"

    def show(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 3 and hidden.exists():
            hidden.rename(about)

    def hide(call: str, subject: Any) -> None:
        if call == "fsync" and path_of(subject) == about.parent and about.exists() and looks == 0:
            about.rename(hidden)

    monkeypatch.setattr("pretrain.checkpoint.commit.time.sleep", show)
    with before_each(hide):
        saver.begin(state_at(5))
        saver.finish()
    assert looks == 3 and find_checkpoint(tmp_path) == tmp_path / "step-00000005"
    monkeypatch.setattr(committing, "_METADATA_LAG_SECONDS", 0.0)
    place = committing.Place(tmp_path, 10)
    with pytest.raises(
        PretrainError, match=r"rank-00001\.json: No such file or directory, though rank 1 wrote it"
    ):
        committing._written_by(place, 1)


def goes_on_while_one_is_slow(checkpoints: Path) -> tuple[int, float, bool]:
    """On a rank: rank 1's disk takes three seconds; steps until all is committed, and the longest of them."""
    rank = dist.get_rank()
    saver = Saver(checkpoints, half_optimizer(rank), Retention(3), rank)

    def slow(call: str, subject: Any) -> None:
        if rank == 1 and call == "write" and path_of(subject).name.endswith(".safetensors"):
            time.sleep(1.5)  # once for the header, once for the data

    steps, longest = 0, 0.0
    with before_each(slow):
        saver.begin(state_at(5))
        while saver.newest is None:
            began = time.monotonic()
            step_of(saver)
            longest, steps = max(longest, time.monotonic() - began), steps + 1
            time.sleep(0.01)
    return steps, longest, find_checkpoint(checkpoints) is not None


@pytest.mark.slow
def test_a_slow_rank_holds_up_no_step(tmp_path: Path) -> None:
    ends = run_ranks(goes_on_while_one_is_slow, 2, tmp_path)
    assert ends[0][0] == ends[1][0] > 10  # they hear of it at the same step
    assert all(longest < 1.2 and whole for _, longest, whole in ends)


def fails_on_one(checkpoints: Path) -> tuple[str, int, float, list[str]]:
    """On a rank: rank 1 cannot write, and rank 0's file takes a minute unless it is broken off; what all hear, the
    step and the seconds it took them, and what is left."""
    rank = dist.get_rank()
    snapshot._PART_BYTES = 600
    saver = Saver(checkpoints, half_optimizer(rank), Retention(3), rank)
    saver.begin(state_at(5))
    saver.finish()

    def refuse(call: str, subject: Any) -> None:
        if call == "write" and path_of(subject).name.endswith(".safetensors"):
            if rank == 1:
                time.sleep(0.2)
                raise OSError(5, "Input/output error")
            time.sleep(0.1)

    with before_each(refuse):
        saver.begin(state_at(10))
        began = time.monotonic()
        for step in range(1000):
            try:
                step_of(saver)
            except PretrainError as error:
                seconds = time.monotonic() - began
                dist.barrier()
                return str(error), step, seconds, sorted(path.name for path in checkpoints.iterdir())
            time.sleep(0.01)
    raise AssertionError("nobody heard of it")


@pytest.mark.slow
def test_a_failure_is_heard_by_all_at_the_same_step(tmp_path: Path) -> None:
    ends = run_ranks(fails_on_one, 2, tmp_path)
    (sentence, step, seconds, left), (other, other_step, *_) = ends
    assert (sentence, step) == (other, other_step)
    assert seconds < 20
    assert "rank 1: " in sentence and "rank-00001.safetensors: Input/output error" in sentence
    assert left == ["latest", "step-00000005"]


def dies_while_saving(checkpoints: Path) -> None:
    """On a rank: rank 1 is slow at its file, and is then killed in the midst of it."""
    rank = dist.get_rank()
    saver = Saver(checkpoints, half_optimizer(rank), Retention(3), rank)
    saver.begin(state_at(5))
    saver.finish()

    def die(call: str, subject: Any) -> None:
        if rank == 1 and call == "write" and path_of(subject).name.endswith(".safetensors"):
            time.sleep(0.5)
            os._exit(9)

    with before_each(die):
        saver.begin(state_at(10))
        while True:
            step_of(saver)
            time.sleep(0.01)


@pytest.mark.slow
def test_a_rank_that_is_lost_in_a_save_leaves_nothing_committed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="dies_while_saving failed"):
        run_ranks(dies_while_saving, 2, tmp_path)
    # Rank 0's file was there, and would have been the first of two.
    assert (tmp_path / ".step-00000010.partial" / "rank-00000.json").exists()
    assert find_checkpoint(tmp_path) == tmp_path / "step-00000005"
    assert not (tmp_path / "step-00000010").exists()


def test_only_replica_0_writes_and_all_hear(tmp_path: Path) -> None:
    ends = run_ranks(saved_by_replicas, 2, tmp_path)
    assert ends == ["step-00000005"] * 2
    assert sorted(path.name for path in (tmp_path / "step-00000005").iterdir()) == [
        "manifest.json",
        "rank-00000.safetensors",
    ]


def saved_by_replicas(checkpoints: Path) -> str:
    """On a rank: both hold everything, and rank 1 is the replica."""
    rank = dist.get_rank()
    optimizer = make_optimizer(*WHOLE)
    object.__setattr__(optimizer.layout, "replica", rank)
    saver = Saver(checkpoints, optimizer, Retention(3), rank)
    saver.begin(state_at(5))
    saver.finish()
    assert saver.newest is not None
    return saver.newest.name


def test_is_made_where_nothing_lies_yet_but_the_run(tmp_path: Path, one_rank: None) -> None:
    assert save(tmp_path / "checkpoints", 5).is_dir()
    with pytest.raises(
        PretrainError, match=r"run/checkpoints: No such file or directory; .* needed, .* free"
    ):
        save(tmp_path / "run" / "checkpoints", 5)
    assert not (tmp_path / "run").exists()
