"""A save meets the disk: killed before each of its system calls, and without room at each of its files."""

import ctypes
import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pretrain import comm
from pretrain.checkpoint import Retention, Saver, find_best, find_checkpoint, load_checkpoint
from pretrain.checkpoint.disk import free_bytes
from pretrain.errors import PretrainError
from pretrain.faults.bench import SEQ_LEN, Bench, Way
from pretrain.faults.row import NotHere, Red, Row, Try, expect
from pretrain.faults.small import CUT, WHOLE, contents, make_optimizer, state_at
from pretrain.faults.system_calls import killed_before
from pretrain.faults.tiny import write_model
from pretrain.faults.world import latest, world
from pretrain.optim import ShardedOptimizer, Validations

# A save has about 30; each is tried, so this bounds only a save that never ends.
MAX_CALLS = 200
_MOUNT_DETACH = 2  # mount.h: lazily, as a rank that was killed may still be there for a moment


@contextmanager
def one_rank() -> Iterator[None]:
    """This process as a world of one."""
    if dist.is_initialized():
        yield
        return
    comm.start(comm.Placement(0, 0, 1, 1), torch.device("cpu"))
    try:
        yield
    finally:
        comm.stop()


def save_best(checkpoints: Path, step: int, seed: int, keep: int = 2) -> None:
    """Every one of these is the best so far."""
    optimizer = make_optimizer(*CUT, seed=seed)
    state = state_at(step, optimizer.applied_steps)
    saver = Saver(checkpoints, optimizer, Retention(keep, best=True), 0)
    saver.begin(state.model_copy(update={"validations": Validations(step, 1.0, 1.0)}))
    saver.finish()


def loaded(folder: Path) -> ShardedOptimizer:
    """In another cut."""
    optimizer = make_optimizer(*WHOLE, seed=9)
    load_checkpoint(folder, optimizer, 0, 1)
    return optimizer


def is_that_of(optimizer: ShardedOptimizer, seed: int) -> bool:
    """In every bit. Raises Red where some of it is and some is not."""
    expected, found = contents(make_optimizer(*CUT, seed=seed)), contents(optimizer)
    same = [torch.equal(found[name], values) for name, values in expected.items()]
    expect(all(same) == any(same), "parts of two checkpoints were loaded")
    return all(same) and optimizer.applied_steps == 100 + seed


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


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """A file system of that size. Raises NotHere where nobody may mount one."""
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", path], capture_output=True
    )
    if mounted.returncode != 0:
        raise NotHere("this machine lets nobody mount a tmpfs")
    try:
        yield path
    finally:
        ctypes.CDLL(None, use_errno=True).umount2(os.fsencode(path), _MOUNT_DETACH)


def _room_tries(bench: Bench) -> Iterator[Try]:
    """A page more is free each time, from none to all that a save takes: so it fails at each of its files."""
    folder, page = bench.new_folder("room"), os.sysconf("SC_PAGE_SIZE")
    with one_rank(), small_disk(folder / "disk", "1m") as disk:
        optimizer = make_optimizer(*CUT, seed=1)
        saver = Saver(disk, optimizer, Retention(9), 0)
        saver.begin(state_at(5, optimizer.applied_steps))
        saver.finish()
        files: set[str] = set()
        for pages in range(MAX_CALLS):
            ends: list[str | None] = []
            yield Try(f"{pages} pages free", partial(_saved, disk, pages * page, ends))
            if ends == [None]:
                break
            files.update(each for each in ends if each)
        expected = {"rank-00000.safetensors", "rank-00000.json", "manifest.json"}
        yield Try("each file", lambda: expect(expected <= files, f"it failed at {sorted(files)} alone"))
    yield Try("two ranks of a run", lambda: _run_without_room(bench))


def _saved(disk: Path, free: int, ends: list[str | None]) -> None:
    """A save with so many bytes free, which nobody knew when it began: adds the file at which it failed, or None."""
    optimizer = make_optimizer(*CUT, seed=1)
    saver = Saver(disk, optimizer, Retention(9), 0)
    shutil.rmtree(
        disk / "step-00000010", ignore_errors=True
    )  # named by an earlier one that `latest` does not name
    filler = os.open(disk / "filler", os.O_RDWR | os.O_CREAT)
    try:
        os.posix_fallocate(filler, 0, free_bytes(disk) - free)
        try:
            with _room_at_first_sight():
                saver.begin(state_at(10, optimizer.applied_steps))
                saver.finish()
        except PretrainError as error:
            ends.append(_file_of(disk, str(error), free))
            return
    finally:
        os.close(filler)
        (disk / "filler").unlink()
    newest = find_checkpoint(disk)
    expect(newest == disk / "step-00000010" and is_that_of(loaded(newest), 1), f"it ended well with {newest}")
    ends.append(None)


@contextmanager
def _room_at_first_sight() -> Iterator[None]:
    """The disk seems roomy when first looked at."""
    honest, looks = os.statvfs, 0

    def looked(path: Any) -> os.statvfs_result:
        nonlocal looks
        looks += 1
        found = honest(path)
        return os.statvfs_result([*found[:2], *[1 << 20] * 3, *found[5:]]) if looks == 1 else found

    os.statvfs = looked
    try:
        yield
    finally:
        os.statvfs = honest


def _file_of(disk: Path, message: str, free: int) -> str:
    """The file that the message names, once the rest of it and what is left on the disk are as promised."""
    found = re.search(
        r"rank 0: (\S+): No space left on device; ([\d,]+) bytes needed, ([\d,]+) free\)", message
    )
    if found is None:
        raise Red(f"path, bytes needed and bytes free are not said: {message}")
    expect(int(found[3].replace(",", "")) <= free, f"{free} bytes were free: {message}")
    newest = find_checkpoint(disk)
    expect(newest == disk / "step-00000005", f"latest names {newest}")
    expect(newest is not None and is_that_of(loaded(newest), 1), "the last good one is another now")
    left = [path.name for path in disk.glob(".step-*")]
    expect(not left, f"what was begun takes room: {left}")
    return Path(found[1]).name


def _run_without_room(bench: Bench) -> None:
    """Some checkpoints fit and the next does not; with more room the run goes on."""
    folder = bench.new_folder("without-room")
    model = write_model(folder / "model.json", SEQ_LEN, hidden_size=64, intermediate_size=128)
    with small_disk(folder / "disk", "2m") as disk:
        run, steps = disk / "run", 12
        more = ("checkpoint.every=2", "checkpoint.keep=9", f"model.config={model}", f"--output={run}")
        typed = [bench.engine(Way("fsdp", 2)), *bench.arguments(steps, *more)]
        with world(bench.launch, folder, typed, 2) as running:
            codes, _ = running.end()
            expect(codes == [1, 1], f"ended with {codes}: {running.said[-1000:]}")
            sentence = running.sentence
        found = re.search(
            r"\(.*?: ([\d,]+) bytes needed, ([\d,]+) free\); the previous one is whole", sentence
        )
        expect(found is not None and str(run) in sentence, f"path, needed and free are not said: {sentence}")
        saved = latest(run)
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True, capture_output=True)
        with world(bench.launch, folder, typed, 2) as running:
            codes, _ = running.end()
            expect(codes == [0, 0], f"with room it ended with {codes}: {running.said[-1000:]}")
            expect(
                f"after step {saved}, bit for bit" in running.said, "it did not go on from the last good one"
            )


ROWS = (
    Row(
        "kill-in-save",
        "SIGKILL before every system call of a save",
        "the previous checkpoint or the new one loads whole, bit for bit, never mixed",
        _call_tries,
    ),
    Row(
        "disk-full",
        "a disk without room, at each file (a small tmpfs)",
        "path, bytes needed and free are said; the last good one is intact; nobody hangs",
        _room_tries,
    ),
)
