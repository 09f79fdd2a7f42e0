"""What rank 0 does in the folder of checkpoints: makes room for a save, commits it, removes what is superseded.

A save has the hidden name `.step-<step>.partial` until it is whole:

1. every rank's file and, beside it, that file's small manifest are on disk;
2. the manifest of all is written from those of the ranks, and is on disk; theirs go;
3. the folder gets its name; `best` names it if it is the best; `latest` names it last;
4. what is superseded gets a hidden name, then goes.

Killed anywhere, the previous checkpoint or the new one is whole, and the one that `latest` names. A step that is saved
again is kept as `.step-<step>.replaced` meanwhile, where loading finds it.
"""

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from pretrain.checkpoint.find import find_best, saved_checkpoints, step_name, step_of
from pretrain.checkpoint.manifest import (
    BEST_NAME,
    LATEST_NAME,
    MANIFEST_NAME,
    CheckpointManifest,
    SavedFile,
)
from pretrain.checkpoint.retention import Retention
from pretrain.disk import free_bytes, naming, sync, write_file, write_text
from pretrain.errors import PretrainError

# A network file system may show another machine's new file only after a while.
_METADATA_LAG_SECONDS = 30.0
_SECONDS_BETWEEN_LOOKS = 0.1
LEFT_SUFFIX = ".left"
_LEFTOVERS = (".step-*.partial", ".step-*.removed")


@dataclass(frozen=True)
class Place:
    """Where the checkpoint of a step lies, and where while it is written."""

    checkpoints: Path
    step: int

    @property
    def final(self) -> Path:
        return self.checkpoints / step_name(self.step)

    @property
    def partial(self) -> Path:
        return self.checkpoints / f".{step_name(self.step)}.partial"

    @property
    def replaced(self) -> Path:
        return self.checkpoints / f".{step_name(self.step)}.replaced"

    def file_of(self, rank: int) -> Path:
        return self.partial / f"rank-{rank:05d}.safetensors"

    def manifest_of(self, rank: int) -> Path:
        return self.partial / f"rank-{rank:05d}.json"


def prepare(place: Place, needed: int) -> None:
    """Clears away what a kill has left and makes the hidden folder.

    Raises:
        PretrainError: the folder cannot be made, or fewer than `needed` bytes are free.
    """
    with naming(place.partial, needed):
        if not place.checkpoints.is_dir():
            place.checkpoints.mkdir()  # a run folder that has gone, with its disk perhaps, is not made again
            sync(place.checkpoints.parent)
        _clear_leftovers(place.checkpoints)
        place.partial.mkdir()
        free = free_bytes(place.partial)
    if free < needed:
        shutil.rmtree(place.partial, ignore_errors=True)
        raise PretrainError(f"{place.checkpoints}: {needed:,} bytes needed, {free:,} free")


def commit(place: Place, manifest: CheckpointManifest, ranks: list[int], retention: Retention) -> None:
    """Makes the files of `ranks` a checkpoint; `manifest` is that of all but for the files.

    Raises:
        PretrainError: a file is missing or short, or something cannot be written; then nothing is committed.
    """
    files = [_written_by(place, rank) for rank in ranks]
    whole = manifest.model_copy(update={"files": files})
    whole.check_complete(place.partial)
    content = whole.as_bytes()
    with naming(place.partial / MANIFEST_NAME, len(content)):
        write_file(place.partial / MANIFEST_NAME, [memoryview(content)])
        for rank in ranks:
            os.unlink(place.manifest_of(rank))
        sync(place.partial)
        if place.final.exists():  # saved before, by a run that then went back to an older checkpoint
            shutil.rmtree(place.replaced, ignore_errors=True)
            os.rename(place.final, place.replaced)
        os.rename(place.partial, place.final)
        sync(place.checkpoints)
        validations = manifest.state.validations
        if retention.best and validations is not None and validations.best_step == place.step:
            point_best(place.checkpoints, place.step)
        point_latest(place.checkpoints, place.final.name)
    shutil.rmtree(place.replaced, ignore_errors=True)
    _remove_superseded(place, retention)


def point_latest(checkpoints: Path, name: str) -> None:
    """Makes `latest` name this checkpoint, atomically and on disk."""
    _point(checkpoints, LATEST_NAME, name)


def point_best(checkpoints: Path, step: int) -> None:
    """Makes `best` name the checkpoint of this step, atomically and on disk."""
    _point(checkpoints, BEST_NAME, step_name(step))


def set_aside_beyond(checkpoints: Path, step: int) -> list[Path]:
    """The run goes on from this step: what was saved after it is of a course that is left, and must not be taken for
    this one's. It gets a name that is nobody's checkpoint, `step-<step>.left`; those paths, newest first."""
    left = []
    for path in saved_checkpoints(checkpoints):
        if step_of(path) > step:
            aside = path.with_name(f"{path.name}{LEFT_SUFFIX}")
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(path, aside)
            left.append(aside)
    if left:
        sync(checkpoints)
    return left


def _point(checkpoints: Path, pointer: str, name: str) -> None:
    hidden = checkpoints / f".{pointer}.partial"
    write_text(hidden, name + "\n")
    os.rename(hidden, checkpoints / pointer)
    sync(checkpoints)


def _clear_leftovers(checkpoints: Path) -> None:
    """What was set aside goes, or gets its name back if its successor never got it."""
    for pattern in _LEFTOVERS:
        for path in checkpoints.glob(pattern):
            shutil.rmtree(path)
    for path in checkpoints.glob(".step-*.replaced"):
        named = checkpoints / path.name.removeprefix(".").removesuffix(".replaced")
        if named.exists():
            shutil.rmtree(path)
        else:
            os.rename(path, named)


def _written_by(place: Place, rank: int) -> SavedFile:
    """What a rank says of its file, once both are to be seen from here."""
    path, deadline = place.manifest_of(rank), time.monotonic() + _METADATA_LAG_SECONDS
    while True:
        try:
            file = SavedFile.model_validate_json(path.read_bytes())
            size = place.file_of(rank).stat().st_size
            if size == file.bytes and file.name == place.file_of(rank).name:
                return file
            problem = f"{place.file_of(rank)} has {size} bytes where rank {rank} wrote {file.bytes}"
        except OSError as error:
            problem = f"{error.filename}: {error.strerror}, though rank {rank} wrote it"
        except ValidationError:
            problem = f"{path} is not what rank {rank} wrote"
        if time.monotonic() > deadline:
            raise PretrainError(problem)
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _remove_superseded(place: Place, retention: Retention) -> None:
    """What cannot be removed stays, and is tried again at the next save."""
    steps = [step_of(path) for path in saved_checkpoints(place.checkpoints)]
    best = find_best(place.checkpoints)
    kept = None if best is None else step_of(best)
    for step in retention.superseded(steps, place.step, kept):
        path = place.checkpoints / step_name(step)
        hidden = path.with_name(f".{path.name}.removed")
        try:
            os.rename(path, hidden)  # half a checkpoint must not stand under its name
        except OSError:
            continue
        shutil.rmtree(hidden, ignore_errors=True)
