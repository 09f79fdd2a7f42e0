"""The manifest of a checkpoint: what was saved, which slices lie in which file, and each file's checksum.

Since version 2 it ends with a checksum of itself; version 1 is still read. The format is described in README.md.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from pretrain.errors import DataError, misfit
from pretrain.files import json_object, read_bounded, sealed, unsealed
from pretrain.optim import LossScaleState, NoiseState, Validations

FORMAT = "pretrain-checkpoint"
VERSION = 2
OLDEST_VERSION = 1
MANIFEST_NAME = "manifest.json"
LATEST_NAME = "latest"
BEST_NAME = "best"
MASTER = "master"  # the kind of fp32 master weights; what other kinds there are, the optimizer says
MAX_MANIFEST_BYTES = 256 << 20
_HASH_CHUNK_BYTES = 1 << 22
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_STEP_FOLDER = re.compile(r"\.?step-(\d+)(\.replaced)?")

Count = Annotated[int, Field(ge=0, lt=1 << 63)]


def _plain_name(name: str) -> str:
    if not _PLAIN_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no plain file name")
    return name


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SavedSlice(_Part):
    """Elements start .. start + numel of a flattened parameter, present once for each kind."""

    parameter: str
    start: Count
    numel: Count


class SavedFile(_Part):
    """One rank's file."""

    name: Annotated[str, AfterValidator(_plain_name)]
    bytes: Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
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
    validations: Validations | None = None  # where the best one is looked for
    seed: int
    store_fingerprint: str  # of a blend: over all its stores and weights
    tokenizer_sha256: str = ""  # of the stores' tokenizer.json; empty: written before it was kept
    blend: list[SavedStore] = []  # empty: one store
    sampling: dict[str, Any]
    model_class: str
    model_config_json: str
    written_by: dict[str, Any]  # backend, stage, ranks, micro-batch, precision, versions
    run_config: dict[str, Any]


class CheckpointManifest(_Part):
    """manifest.json."""

    format: Literal["pretrain-checkpoint"] = "pretrain-checkpoint"
    version: Literal[1, 2] = 2
    kinds: list[str]
    vectors: list[str] = []  # kinds that every rank holds whole; in the file of rank 0
    parameters: dict[str, list[Count]]
    frozen: list[str] = []  # of the parameters, those that were not trained: they have master weights alone
    files: list[SavedFile]
    state: RunState

    @model_validator(mode="after")
    def _files_once(self) -> Self:
        if len({file.name for file in self.files}) < len(self.files):
            raise ValueError("one of the files is listed twice")
        return self

    @classmethod
    def read(cls, folder: Path) -> "CheckpointManifest":
        """Raises DataError where the manifest is missing, broken, of another version or step, or not whole."""
        path = folder / MANIFEST_NAME
        try:
            content = read_bounded(path, MAX_MANIFEST_BYTES)
        except OSError as error:
            raise DataError(
                f"{path} cannot be read ({error.strerror or error}), so {folder} is no checkpoint."
            ) from None
        try:
            manifest = cls.model_validate_json(_body(content, path))
        except ValidationError as error:
            problem = misfit(error.errors(include_url=False)[0])
            raise DataError(f"{path}: {problem}; resume from another checkpoint.") from None
        manifest.check_complete(folder)
        named = _STEP_FOLDER.fullmatch(folder.name)
        if named is not None and int(named[1]) != manifest.state.step:
            raise DataError(
                f"{path} is of step {manifest.state.step}, which its folder's name is not: it was swapped or moved; "
                "resume from another checkpoint."
            )
        return manifest

    def as_bytes(self) -> bytes:
        """The content of manifest.json."""
        body = self.model_dump_json(indent=1).encode()
        return sealed(body) if self.version > 1 else body

    @property
    def content_sha256(self) -> str:
        """Of all that it says: ranks that see the same checkpoint have the same."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def tensors(self, file: SavedFile) -> Mapping[str, int | None]:
        """Elements of every tensor in one of its files, by key; None: of a whole vector, which only training knows."""
        frozen = set(self.frozen)
        found: dict[str, int | None] = {
            slice_key(kind, piece.parameter, piece.start): piece.numel
            for kind in self.kinds
            for piece in file.slices
            if kind == MASTER or piece.parameter not in frozen
        }
        return found if file != self.files[0] else found | dict.fromkeys(map(vector_key, self.vectors))

    def check_complete(self, folder: Path) -> None:
        """Every element of every parameter lies in exactly one slice, else DataError."""
        if not self.files:
            raise DataError(f"{folder}: the manifest lists no file; resume from another checkpoint.")
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


def _body(content: bytes, path: Path) -> bytes:
    """The JSON without its own checksum; raises DataError where it is no manifest that this version reads."""
    try:
        said = json_object(content)
    except ValueError as error:  # nesting too deep is one, too
        raise DataError(f"{path} is not valid JSON ({error}); resume from another checkpoint.") from None
    if said.get("format") != FORMAT:
        raise DataError(f"{path} is not the manifest of a checkpoint (its format is not {FORMAT!r}).")
    version = said.get("version")
    if type(version) is not int or not OLDEST_VERSION <= version <= VERSION:
        shown = version if type(version) is int and version < 1 << 63 else f"<{type(version).__name__}>"
        raise DataError(
            f"{path} is a checkpoint of version {shown}, this program reads versions {OLDEST_VERSION} to {VERSION}; "
            "use the release of this program that wrote it."
        )
    if version == 1:
        return content
    body = unsealed(content)
    if body is None:
        raise DataError(
            f"{path} has changed since it was written: its own checksum does not agree; resume from another checkpoint."
        )
    return body


def sha256_of(path: Path) -> str:
    """Hex digest of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def vector_key(kind: str) -> str:
    """The name of a whole vector in rank 0's file."""
    return f"whole:{kind}"


def slice_key(kind: str, parameter: str, start: int) -> str:
    """The name of a slice's tensor in its file."""
    return f"{kind}:{parameter}:{start}"
