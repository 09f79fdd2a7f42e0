"""The manifest of a checkpoint: what was saved, which slices lie in which file, and each file's checksum."""

import hashlib
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from pretrain.errors import DataError, misfit
from pretrain.optim import LossScaleState, NoiseState

FORMAT = "pretrain-checkpoint"
VERSION = 1
MANIFEST_NAME = "manifest.json"
LATEST_NAME = "latest"
MASTER = "master"  # the kind of fp32 master weights; what other kinds there are, the optimizer says
MAX_MANIFEST_BYTES = 256 << 20
_HASH_CHUNK_BYTES = 1 << 22


def _plain_name(name: str) -> str:
    if not name or name != Path(name).name or name.startswith("."):
        raise ValueError(f"{name!r} is no plain file name")
    return name


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SavedSlice(_Part):
    """Elements start .. start + numel of a flattened parameter, present once for each kind."""

    parameter: str
    start: int
    numel: int


class SavedFile(_Part):
    """One rank's file."""

    name: Annotated[str, AfterValidator(_plain_name)]
    bytes: int
    sha256: str
    slices: list[SavedSlice]


class SavedStore(_Part):
    """A token store that the run reads: the path it was given, and its share of the rows."""

    name: str
    fingerprint: str
    weight: int


class RunState(_Part):
    """Where the run stands, and what its further course depends on."""

    step: int  # finished optimizer steps
    tokens: int = 0  # real ones in those steps; 0 where it was saved before they were counted
    seconds: float = 0.0  # of training, over all starts
    skipped_tokens: int = 0  # of those tokens, what lay in steps that updated nothing
    cursor: list[int]  # first row of the next step
    applied_steps: int  # steps that changed the weights: the t of the learning rate
    earlier_steps: int = (
        0  # those of an earlier phase whose moments were kept: bias correction's t has them too
    )
    loss_scale: LossScaleState | None = (
        None  # of fp16; None: another precision, or saved before it was carried
    )
    recent_norms: list[float] = []  # of the last updates' gradients, where a rule skips outliers among them
    spikes_in_row: int = 0  # such outliers since the last update
    noise: NoiseState | None = None  # averages of the gradient noise scale; None: saved before there were any
    seed: int
    store_fingerprint: str  # of a blend: over all its stores and weights
    blend: list[SavedStore] = []  # empty: one store
    sampling: dict[str, Any]
    model_class: str
    model_config_json: str
    written_by: dict[str, Any]  # backend, stage, ranks, micro-batch, precision, versions
    run_config: dict[str, Any]


class CheckpointManifest(_Part):
    """manifest.json."""

    format: Literal["pretrain-checkpoint"] = "pretrain-checkpoint"
    version: Literal[1] = 1
    kinds: list[str]
    vectors: list[str] = []  # kinds that every rank holds whole; in the file of rank 0
    parameters: dict[str, list[int]]
    frozen: list[str] = []  # of the parameters, those that were not trained: they have master weights alone
    files: list[SavedFile]
    state: RunState

    @classmethod
    def read(cls, folder: Path) -> "CheckpointManifest":
        """Raises DataError where the manifest is missing, broken, of another version or leaves elements out."""
        path = folder / MANIFEST_NAME
        try:
            if path.stat().st_size > MAX_MANIFEST_BYTES:
                raise DataError(f"{path} is too large to be a checkpoint's manifest.")
            manifest = cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise DataError(
                f"{path} cannot be read ({error.strerror or error}), so {folder} is no checkpoint."
            ) from None
        except ValidationError as error:
            problem = misfit(error.errors(include_url=False)[0])
            raise DataError(f"{path}: {problem}; this version reads format {VERSION}.") from None
        manifest.check_complete(folder)
        return manifest

    def check_complete(self, folder: Path) -> None:
        """Every element of every parameter lies in exactly one slice, else DataError."""
        ranges: dict[str, list[tuple[int, int]]] = {name: [] for name in self.parameters}
        for file in self.files:
            for piece in file.slices:
                if piece.parameter not in ranges:
                    raise DataError(
                        f"{folder}: file {file.name} has a slice of unknown parameter {piece.parameter}."
                    )
                ranges[piece.parameter].append((piece.start, piece.start + piece.numel))
        for name, shape in self.parameters.items():
            numel, position = 1, 0
            for size in shape:
                numel *= size
            for start, end in sorted(ranges[name]):
                if start != position:
                    break
                position = end
            else:
                if position == numel:
                    continue
            raise DataError(
                f"{folder}: parameter {name} is not whole, {position} of {numel} elements follow one another; the "
                "checkpoint is damaged, resume from another one."
            )


def sha256_of(path: Path) -> str:
    """Hex digest of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Forces a file or a folder's entries to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def vector_key(kind: str) -> str:
    """The name of a whole vector in rank 0's file."""
    return f"whole:{kind}"


def slice_key(kind: str, parameter: str, start: int) -> str:
    """The name of a slice's tensor in its file."""
    return f"{kind}:{parameter}:{start}"
