"""The output folder: whether it can be made and written, how fast, how much is free, and whether another run has it.

What is not there yet is not made: the nearest folder that exists is looked at in its place. Nothing stays behind.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

from pretrain import comm
from pretrain.disk import free_bytes, refusal
from pretrain.doctor.finding import Finding, failed, ok, warning
from pretrain.doctor.here import Here
from pretrain.errors import UsageError
from pretrain.plan.tables import gib
from pretrain.run_folder import RunFolder

TRIAL_BYTES = 32 << 20
_PART_BYTES = 1 << 20
# pretrain.sbatch is told to save so long before the time limit.
SAVE_SECONDS = 120.0
_CHOOSE = "choose another --output, or correct the rights of this one"


def nearest(path: Path) -> tuple[Path, int]:
    """The folder to look at, and how many levels above `path` it is."""
    path, levels = path.absolute(), 0
    while not os.path.lexists(path) and path != path.parent:
        path, levels = path.parent, levels + 1
    return path, levels


def trial_path(folder: Path, name: str) -> Path:
    """A file that nobody else has."""
    return folder / f".doctor-{name}-{os.getpid()}"


def check_writable(here: Here, trial_bytes: int = TRIAL_BYTES) -> Iterator[Finding]:
    """A file without a name is written and forced to disk."""
    folder, levels = nearest(here.output)
    where = f"{here.output}" if levels == 0 else f"{here.output} is not there yet; in {folder}"
    if not folder.is_dir():
        yield failed(f"{folder} is no folder, expected one for --output {here.output}", _CHOOSE)
        return
    trial = trial_path(folder, here.node)
    try:
        seconds = _written(trial, trial_bytes, here.seconds)
    except OSError as error:
        yield failed(f"--output {where} cannot be written: {refusal(error, folder, trial_bytes)}", _CHOOSE)
        return
    if seconds is None:
        yield warning(
            f"{where}: {gib(trial_bytes)} were not on disk after {here.seconds:g} s",
            "take a faster file system for --output: saving would hold up the end of the run",
        )
        return
    yield judged_speed(here, where, trial_bytes, seconds)


def _written(path: Path, num_bytes: int, limit: float) -> float | None:
    """Seconds until it lies on disk; None where that takes longer than the limit."""
    part, begin = os.urandom(_PART_BYTES), monotonic()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        path.unlink()  # at once: nothing stays, however this ends
        for start in range(0, num_bytes, _PART_BYTES):
            rest = memoryview(part)[: num_bytes - start]
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            if monotonic() - begin > limit / 2:
                return None
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return max(monotonic() - begin, 1e-6)


def judged_speed(here: Here, where: str, num_bytes: int, seconds: float) -> Finding:
    speed = num_bytes / seconds
    found = f"{where}: {gib(num_bytes)} on disk in {seconds:.2g} s, {speed / 1e6:,.0f} MB/s"
    if not here.has_store or here.place is None or not here.place.is_first:
        return ok(found)
    whole = here.plan.checkpoints.whole_bytes
    found = f"{found}; a checkpoint of {gib(whole)} takes {whole / speed:,.2g} s at that rate, by one process"
    if whole / speed > SAVE_SECONDS:
        return warning(
            f"{found}, and a SLURM job is told to save {SAVE_SECONDS:g} s before its limit",
            "take a faster file system for --output, or tell the job earlier (sbatch --signal=USR1@SECONDS)",
        )
    return ok(found)


def check_room(here: Here) -> Iterator[Finding]:
    """What is free, beside all checkpoints that stay, one more, and the model at the end."""
    folder, _ = nearest(here.output)
    if not here.has_store:
        return
    figures = here.plan.checkpoints
    there = sum(each.stat().st_size for each in RunFolder(here.output).checkpoints.glob("step-*/*"))
    needed, free = max(0, figures.disk_bytes - there), free_bytes(folder)
    kept = f"{figures.kept} checkpoint(s) of {gib(figures.whole_bytes)}, one more while it is written, and the model"
    found = f"{gib(free)} free in {folder}, expected {gib(needed)} for {kept}"
    if there:
        found += f", {gib(there)} of which are there"
    if free < needed:
        yield failed(found, "free space, choose another --output, or lower checkpoint.keep")
    else:
        yield ok(found)


def check_lock(here: Here) -> Iterator[Finding]:
    """Whether another run has the folder."""
    folder = RunFolder(here.output)
    try:
        folder.check_free(comm.batch_job())
    except UsageError as error:
        yield failed(str(error))
        return
    yield ok(f"no other run has {here.output}")
