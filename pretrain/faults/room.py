"""A disk that has no more room, takes nothing any more, or has gone."""

import ctypes
import errno
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from pretrain.checkpoint import Retention, Saver, find_checkpoint
from pretrain.disk import free_bytes
from pretrain.errors import PretrainError
from pretrain.faults.bench import SEQ_LEN, Bench, Way
from pretrain.faults.row import NotHere, Red, Row, Try, expect
from pretrain.faults.small import CUT, is_that_of, loaded, make_optimizer, one_rank, state_at
from pretrain.faults.system_calls import before_each, path_of
from pretrain.faults.tiny import write_model
from pretrain.faults.world import latest, world

# A save takes fewer pages.
MAX_PAGES = 200
STEPS = 100_000  # too many to come to their end
_MOUNT_DETACH = 2  # mount.h: lazily, as a rank that was killed may still be there for a moment


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
        for pages in range(MAX_PAGES):
            ends: list[str | None] = []
            yield Try(f"{pages} pages free", partial(_saved, disk, pages * page, ends))
            if ends == [None]:
                break
            files.update(each for each in ends if each)
        expected = {"rank-00000.safetensors", "rank-00000.json", "manifest.json"}
        yield Try("each file", lambda: expect(expected <= files, f"it failed at {sorted(files)} alone"))
    yield Try("two ranks of a run", lambda: _run_without_room(bench))
    yield Try("what a run notes of each step", lambda: _metrics_without_room(bench))


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


def _metrics_without_room(bench: Bench) -> None:
    """The disk fills up where no checkpoint is due: the first line without room ends the run by the file's name."""
    folder, typed = bench.new_folder("without-room"), bench.arguments(STEPS, "checkpoint.every=0")
    with small_disk(folder / "run", "4m") as run:
        with world(bench.launch, folder, typed, 2) as running:
            running.wait_for_step(3)
            _take_all_room(run / "filler")
            codes, _ = running.end()
            expect(codes == [1, 1], f"ended with {codes}: {running.said[-1000:]}")
            told = f"error: {run}/metrics.jsonl: No space left on device; 0 bytes free"
            expect(running.sentence.startswith(told), f"{told}: {running.sentence}")
        (run / "filler").unlink()
        with world(bench.launch, folder, [*typed, "train.stop_at_step=6"], 2) as running:
            codes, _ = running.end()
            expect(
                codes == [75, 75] and running.steps == 6, f"with room it ended with {codes}: {running.said}"
            )


def _take_all_room(filler: Path) -> None:
    descriptor = os.open(filler, os.O_RDWR | os.O_CREAT)
    try:
        os.posix_fallocate(descriptor, 0, free_bytes(filler))
    finally:
        os.close(descriptor)


def _gone_tries(bench: Bench) -> Iterator[Try]:
    yield Try("a run folder that was moved away", lambda: _moved_away(bench))
    with one_rank():
        yield Try("a disk that takes nothing any more", lambda: _read_only(bench.new_folder("read-only")))


def _moved_away(bench: Bench) -> None:
    """Nothing is made where it was, as if that were the disk it lay on; and it goes on where it is now."""
    folder = bench.new_folder("moved-away")
    typed = bench.arguments(STEPS, "checkpoint.every=8")
    with world(bench.launch, folder, typed, 2) as running:
        running.wait_for_step(10)
        running.wait_for((running.run / "checkpoints" / "latest").exists, "saved")
        away = running.run.rename(folder / "away")
        codes, _ = running.end()
        expect(set(codes) <= {1, 75} and len(set(codes)) == 1, f"ended with {codes}: {running.said[-1000:]}")
        told = f"{running.run}/checkpoints: No such file or directory"
        expect(told in running.sentence, f"the folder is not named: {running.sentence}")
        expect(not (running.run / "checkpoints").exists(), "checkpoints are made where the folder was")
        (away / "run.lock").unlink(missing_ok=True)
        shutil.rmtree(running.run, ignore_errors=True)
        away.rename(running.run)
    with world(bench.launch, folder, [*typed, "train.stop_at_step=12"], 2) as running:
        codes, _ = running.end()
        expect(codes == [75, 75], f"in its place again it ended with {codes}: {running.said[-1000:]}")


def _read_only(checkpoints: Path) -> None:
    """What a file system does when its disk fails: from the second save on every change is refused."""
    optimizer = make_optimizer(*CUT, seed=1)
    saver = Saver(checkpoints, optimizer, Retention(9), 0)
    saver.begin(state_at(5, optimizer.applied_steps))
    saver.finish()

    def refuse(call: str, subject: Any) -> None:
        if call in ("mkdir", "write", "rename", "unlink"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path_of(subject)))

    try:
        with before_each(refuse):
            saver.begin(state_at(10, optimizer.applied_steps))
            saver.finish()
    except PretrainError as error:
        told = f"{checkpoints}/.step-00000010.partial: Read-only file system; "
        expect(told in str(error), f"{told}: {error}")
    else:
        raise Red("nothing was said")
    newest = find_checkpoint(checkpoints)
    expect(newest == checkpoints / "step-00000005", f"latest names {newest}")
    expect(newest is not None and is_that_of(loaded(newest), 1), "the last good one is another now")


ROWS = (
    Row(
        "disk-full",
        "a disk without room, at each file (a small tmpfs)",
        "path, bytes needed and free are said; the last good one is intact; nobody hangs",
        _room_tries,
    ),
    Row(
        "disk-gone",
        "an output that was moved away, or takes nothing any more",
        "the path is said; nothing is made elsewhere; the last good one is intact",
        _gone_tries,
    ),
)
