"""Killed before any system call of a save, the previous checkpoint or the new one is whole, and loads in every bit."""

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pretrain.checkpoint import Retention, Saver, find_best, find_checkpoint, load_checkpoint
from pretrain.faults.small import CUT, WHOLE, contents, make_optimizer, state_at
from pretrain.faults.system_calls import killed_before, recorded
from pretrain.optim import ShardedOptimizer, Validations

pytestmark = pytest.mark.usefixtures("one_rank")
# A save has about 30; each is tried, so this bounds only a save that never ends.
MAX_CALLS = 200


def save_best(checkpoints: Path, step: int, seed: int, keep: int = 2) -> None:
    """Every one of these is the best so far."""
    optimizer = make_optimizer(*CUT, seed=seed)
    state = state_at(step, optimizer.applied_steps)
    saver = Saver(checkpoints, optimizer, Retention(keep, best=True), 0)
    saver.begin(state.model_copy(update={"validations": Validations(step, 1.0, 1.0)}))
    saver.finish()


def loaded(folder: Path) -> ShardedOptimizer:
    optimizer = make_optimizer(*WHOLE, seed=9)
    load_checkpoint(folder, optimizer, 0, 1)
    return optimizer


def is_that_of(optimizer: ShardedOptimizer, seed: int) -> bool:
    expected = contents(make_optimizer(*CUT, seed=seed))
    found = contents(optimizer)
    same = [torch.equal(found[name], values) for name, values in expected.items()]
    assert all(same) == any(same), "parts of two checkpoints"
    return all(same) and optimizer.applied_steps == 100 + seed


def prepare_nothing(checkpoints: Path) -> None: ...


def prepare_two(checkpoints: Path) -> None:
    """Both must go: the older is superseded by the new one, and no longer the best."""
    save_best(checkpoints, 5, seed=1, keep=9)
    save_best(checkpoints, 10, seed=2, keep=9)


def prepare_later(checkpoints: Path) -> None:
    """The run has gone back from step 15 to step 10."""
    prepare_two(checkpoints)
    save_best(checkpoints, 15, seed=3, keep=9)
    (checkpoints / "latest").write_text("step-00000010\n")


def prepare_same(checkpoints: Path) -> None:
    """The latest step itself is saved again."""
    prepare_two(checkpoints)
    save_best(checkpoints, 15, seed=3, keep=9)


def prepare_cut_off(checkpoints: Path) -> None:
    """It was saved again once already, and killed between two renames."""
    prepare_same(checkpoints)
    (checkpoints / "step-00000015").rename(checkpoints / ".step-00000015.replaced")
    (checkpoints / ".step-00000015.partial").mkdir()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prepare", "before"),
    [
        (prepare_nothing, None),
        (prepare_two, 2),
        (prepare_later, 2),
        (prepare_same, 3),
        (prepare_cut_off, 3),
    ],
)
def test_killed_anywhere(tmp_path: Path, prepare: Callable[[Path], None], before: int | None) -> None:
    prepare(tmp_path / "first")
    ends = []
    for number in range(MAX_CALLS):
        checkpoints = tmp_path / "now"
        if (tmp_path / "first").exists():
            shutil.copytree(tmp_path / "first", checkpoints)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # the forked process starts no thread of torch's
            was_killed = killed_before(number, lambda: save_best(checkpoints, 15, seed=4, keep=1))  # noqa: B023
        newest = find_checkpoint(checkpoints)
        is_new = newest is not None and is_that_of(loaded(newest), 4)
        if not is_new:
            assert (newest is None) == (before is None)
            assert newest is None or before is None or is_that_of(loaded(newest), before)
        for named in checkpoints.glob("step-*"):
            loaded(named)  # half a checkpoint stands under no name
        best = find_best(checkpoints)
        assert best is None or best in checkpoints.iterdir()
        ends.append(is_new)
        # The next save is none the worse for it, and nothing hidden is left.
        save_best(checkpoints, 15, seed=4, keep=1)
        assert sorted(path.name for path in checkpoints.iterdir()) == ["best", "latest", "step-00000015"]
        shutil.rmtree(checkpoints)
        if not was_killed:
            break
    # Committed at one call, and never undone; many calls lie on both sides of it.
    assert len(ends) > 20
    assert ends == sorted(ends) and not ends[0] and ends[-1]


def test_on_disk_before_it_has_a_name(tmp_path: Path) -> None:
    """A kill cannot show it, a power cut would: what a rename makes visible was forced to disk before."""
    save_best(tmp_path, 5, seed=1)
    calls = recorded(lambda: save_best(tmp_path, 10, seed=2))
    partial = tmp_path / ".step-00000010.partial"
    named = calls.index(("rename", partial))
    for name in ("rank-00000.safetensors", "rank-00000.json", "manifest.json"):
        writes = [number for number, call in enumerate(calls) if call == ("write", partial / name)]
        assert ("fsync", partial / name) in calls[writes[-1] : named], name
    last_entry = max(number for number, call in enumerate(calls[:named]) if call[1].parent == partial)
    assert ("fsync", partial) in calls[last_entry:named]
    # The manifest of all comes after those of the ranks, and their removal after it.
    order = [calls.index(("fsync", partial / name)) for name in ("rank-00000.json", "manifest.json")]
    assert order == sorted(order)
    assert calls.index(("unlink", partial / "rank-00000.json")) > order[1]
    # The name is on disk before `best`, `best` before `latest`, and `latest` before anything goes.
    synced = [number for number, call in enumerate(calls) if call == ("fsync", tmp_path)]
    best = calls.index(("rename", tmp_path / ".best.partial"))
    latest = calls.index(("rename", tmp_path / ".latest.partial"))
    for first, then in ((named, best), (best, latest)):
        assert any(first < number < then for number in synced)
    assert synced[-1] > latest > best > named
    for pointer, rename in (("best", best), ("latest", latest)):
        assert calls.index(("fsync", tmp_path / f".{pointer}.partial")) < rename
