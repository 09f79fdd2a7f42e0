"""What a path on the command line names: a run or a checkpoint, and the stores that it was trained on."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.checkpoint import (
    CheckpointManifest,
    RunState,
    expect_checkpoint,
    find_checkpoint,
    saved_checkpoints,
)
from pretrain.data.store import TokenStore
from pretrain.errors import DataError, PretrainError, UsageError
from pretrain.files import json_object, read_bounded
from pretrain.run_folder import RunFolder

MAX_CONFIG_BYTES = 1 << 26
RUN_OR_CHECKPOINT = "RUN|CHECKPOINT"


@dataclass(frozen=True)
class UsedStore:
    """A token store of a run: where it lay, if that is known, and what it is."""

    name: str | None
    fingerprint: str

    def open(self) -> TokenStore:
        """Raises PretrainError where the store is not there, is damaged, or is another one now."""
        if self.name is None:
            raise UsageError("its path is not known")
        store = TokenStore.open(self.name)
        if store.fingerprint != self.fingerprint:
            raise DataError(f"{self.name} holds another store now (fingerprint {store.fingerprint[:12]})")
        return store

    def described(self) -> str:
        """For people; it looks whether the store is there."""
        try:
            self.open()
        except PretrainError as error:
            found = str(error).rstrip(".")
        else:
            found = "it is there"
        return f"{self.name or 'a store'} (fingerprint {self.fingerprint[:12]}; {found})"


def run_folder(path: Path) -> RunFolder | None:
    """The run that lies there; None where it may be a checkpoint. Raises UsageError where nothing is there."""
    if not path.is_dir():
        raise UsageError(f"{path} is not a folder: give that of a run, or one of its checkpoints.")
    folder = RunFolder(path)
    return folder if folder.checkpoints.is_dir() else None


def checkpoints_of(path: Path) -> list[Path]:
    """All checkpoints of a run, newest first, or the one that is named. Raises UsageError where there is none."""
    run = run_folder(path)
    if run is None:
        expect_checkpoint(path, RUN_OR_CHECKPOINT)
        return [path]
    found = saved_checkpoints(run.checkpoints)
    if not found:
        raise UsageError(f"{path} has no checkpoint yet.")
    return found


def latest_of(path: Path) -> Path:
    """The latest checkpoint of a run, or the one that is named. Raises UsageError, DataError."""
    run = run_folder(path)
    if run is None:
        expect_checkpoint(path, RUN_OR_CHECKPOINT)
        return path
    found = find_checkpoint(run.checkpoints)
    if found is None:
        raise UsageError(f"{path} has no checkpoint yet.")
    return found


def stores_of(path: Path, state: RunState) -> list[UsedStore]:
    """The stores that the run at `path`, or of the checkpoint there, was trained on."""
    if state.blend:
        return [UsedStore(store.name, store.fingerprint) for store in state.blend]
    recipe = state.run_config.get("recipe", {})
    names = [
        *_configured_stores(path),
        recipe.get("data", {}).get("store") if isinstance(recipe, dict) else None,
    ]
    name = next((name for name in names if isinstance(name, str)), None)
    return [UsedStore(name, state.store_fingerprint)]


def _configured_stores(path: Path) -> Iterator[Any]:
    """What config.json says of a run, given its folder or one of its checkpoints."""
    for folder in (path, path.parent.parent):
        try:
            yield json_object(read_bounded(RunFolder(folder).config, MAX_CONFIG_BYTES)).get("store")
        except (OSError, ValueError, DataError):  # it is for people, and may be gone
            continue


def describe(manifest: CheckpointManifest) -> str:
    """Step, size and origin of a checkpoint in a line."""
    numel = sum(_numel(shape) for shape in manifest.parameters.values())
    num_bytes = sum(file.bytes for file in manifest.files)
    by = manifest.state.written_by
    origin = ", ".join(f"{key} {by[key]}" for key in ("backend", "stage", "ranks", "precision") if key in by)
    return (
        f"step {manifest.state.step}, {numel:,} elements of {', '.join([*manifest.kinds, *manifest.vectors])}, "
        f"{len(manifest.files)} file(s), {num_bytes / 1e6:,.1f} MB; {origin or 'origin unknown'}"
    )


def _numel(shape: list[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
