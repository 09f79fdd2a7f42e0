"""A save is killed before each of its system calls."""

import shutil
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from pretrain.checkpoint import Retention, Saver, find_best, find_checkpoint
from pretrain.faults.bench import Bench
from pretrain.faults.row import Row, Try, expect
from pretrain.faults.small import CUT, is_that_of, loaded, make_optimizer, one_rank, state_at
from pretrain.faults.system_calls import killed_before
from pretrain.optim import Validations

# A save has about 30; each is tried, so this bounds only a save that never ends.
MAX_CALLS = 200


def save_best(checkpoints: Path, step: int, seed: int, keep: int = 2) -> None:
    """Every one of these is the best so far."""
    optimizer = make_optimizer(*CUT, seed=seed)
    state = state_at(step, optimizer.applied_steps)
    saver = Saver(checkpoints, optimizer, Retention(keep, best=True), 0)
    saver.begin(state.model_copy(update={"validations": Validations(step, 1.0, 1.0)}))
    saver.finish()


def _nothing(checkpoints: Path) -> None: ...


def _two(checkpoints: Path) -> None:
    """Both must go: the older is superseded by the new one, and no longer the best."""
    save_best(checkpoints, 5, seed=1, keep=9)
    save_best(checkpoints, 10, seed=2, keep=9)


def _later(checkpoints: Path) -> None:
    """The run has gone back from step 15 to step 10."""
    _two(checkpoints)
    save_best(checkpoints, 15, seed=3, keep=9)
    (checkpoints / "latest").write_text("step-00000010\n")


def _same(checkpoints: Path) -> None:
    """The latest step itself is saved again."""
    _two(checkpoints)
    save_best(checkpoints, 15, seed=3, keep=9)


def _cut_off(checkpoints: Path) -> None:
    """It was saved again once already, and killed between two renames."""
    _same(checkpoints)
    (checkpoints / "step-00000015").rename(checkpoints / ".step-00000015.replaced")
    (checkpoints / ".step-00000015.partial").mkdir()


# What is there before the save, and of which seed the latest of it is.
BEFORE: tuple[tuple[str, Callable[[Path], None], int | None], ...] = (
    ("over two earlier ones", _two, 2),
    ("the first", _nothing, None),
    ("the same step again", _same, 3),
    ("of a run that went back", _later, 2),
    ("again after a kill between two renames", _cut_off, 3),
)


def _call_tries(bench: Bench) -> Iterator[Try]:
    with one_rank():
        for what, prepare, before in bench.sample(BEFORE, 2):
            folder = bench.new_folder("calls")
            prepare(folder / "first")
            was_new: list[bool] = []
            for number in range(MAX_CALLS):
                is_over: list[bool] = []
                yield Try(
                    f"{what}, before call {number}",
                    partial(_killed, folder, before, number, was_new, is_over),
                )
                if is_over != [False]:
                    break
            yield Try(f"{what}, all calls", partial(_expect_one_commit, was_new))


def _killed(folder: Path, before: int | None, number: int, was_new: list[bool], is_over: list[bool]) -> None:
    """One save, killed before a call; says whether it came to its end instead, and which checkpoint was found."""
    checkpoints = folder / "now"
    shutil.rmtree(checkpoints, ignore_errors=True)
    if (folder / "first").exists():
        shutil.copytree(folder / "first", checkpoints)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the forked process starts no thread of torch's
        was_killed = killed_before(number, lambda: save_best(checkpoints, 15, seed=4, keep=1))
    is_over.append(not was_killed)
    newest = find_checkpoint(checkpoints)
    is_new = newest is not None and is_that_of(loaded(newest), 4)
    if not is_new:
        expect((newest is None) == (before is None), f"{newest} is found")
        kept = newest is None or before is None or is_that_of(loaded(newest), before)
        expect(kept, f"{newest} is neither the new one nor the one before it")
    for named in checkpoints.glob("step-*"):
        loaded(named)  # half a checkpoint stands under no name
    best = find_best(checkpoints)
    expect(best is None or best in checkpoints.iterdir(), f"best names {best}")
    was_new.append(is_new)
    # The next save is none the worse for it, and nothing hidden is left.
    save_best(checkpoints, 15, seed=4, keep=1)
    left = sorted(path.name for path in checkpoints.iterdir())
    expect(left == ["best", "latest", "step-00000015"], f"left after the next save: {left}")


def _expect_one_commit(was_new: list[bool]) -> None:
    """Committed at one call, and never undone; many calls lie on both sides of it."""
    expect(len(was_new) > 20, f"a save made {len(was_new)} calls")
    expect(was_new == sorted(was_new) and not was_new[0] and was_new[-1], f"new or not, by call: {was_new}")


ROWS = (
    Row(
        "kill-in-save",
        "SIGKILL before every system call of a save",
        "the previous checkpoint or the new one loads whole, bit for bit, never mixed",
        _call_tries,
    ),
)
