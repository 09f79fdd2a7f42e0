"""The manifest: what a token store holds, file by file.

It carries no time, no absolute path and no worker count, so the same input and options give the same bytes. Since
version 2 it ends with a checksum of itself and lists report.json; version 1 is still read. The format to the byte is
in FORMAT.md.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import from_json

from pretrain.data.store.files import name_problem, write_atomically
from pretrain.errors import DataError, UsageError, misfit
from pretrain.files import read_bounded, sealed, unsealed

FORMAT = "pretrain-token-store"
VERSION = 2
OLDEST_VERSION = 1
MANIFEST_NAME = "manifest.json"
REPORT_NAME = "report.json"
TOKENIZER_FOLDER = "tokenizer"
SPLITS = ("train", "heldout")

BLOCK_COLUMNS = 3
LENGTH_DTYPE = np.dtype("<u4")
BLOCK_DTYPE = np.dtype("<u8")
WORD_DTYPE = np.dtype(np.uint8)

# Some 250,000 shards; a larger one is nobody's manifest.
MAX_MANIFEST_BYTES = 1 << 28
_MAX_COUNT = (1 << 63) - 1


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class SpecialIds(_Frozen):
    """Token ids of the five roles; in a RoBERTa tokenizer `cls` and `sep` are its `<s>` and `</s>`."""

    pad: int = Field(ge=0)
    unk: int = Field(ge=0)
    cls: int = Field(ge=0)
    sep: int = Field(ge=0)
    mask: int = Field(ge=0)


class FileEntry(_Frozen):
    bytes: int = Field(ge=0, le=_MAX_COUNT)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class ShardEntry(_Frozen):
    """A shard is begun by its first document, so no count is 0."""

    name: str
    tokens: int = Field(ge=1, le=_MAX_COUNT)
    sentences: int = Field(ge=1, le=_MAX_COUNT)
    documents: int = Field(ge=1, le=_MAX_COUNT)
    blocks: int = Field(ge=1, le=_MAX_COUNT)

    def expected_bytes(self, token_dtype: np.dtype) -> dict[str, int]:
        """Size in bytes of each of the shard's files, by name."""
        return {
            f"{self.name}.tokens": self.tokens * token_dtype.itemsize,
            f"{self.name}.sentences": self.sentences * LENGTH_DTYPE.itemsize,
            f"{self.name}.documents": self.documents * LENGTH_DTYPE.itemsize,
            f"{self.name}.words": (self.tokens + 7) // 8,
            f"{self.name}.blocks": (self.blocks + 1) * BLOCK_COLUMNS * BLOCK_DTYPE.itemsize,
        }


class SplitEntry(_Frozen):
    tokens: int = Field(ge=0, le=_MAX_COUNT)
    sentences: int = Field(ge=0, le=_MAX_COUNT)
    documents: int = Field(ge=0, le=_MAX_COUNT)
    blocks: int = Field(ge=0, le=_MAX_COUNT)
    shards: tuple[ShardEntry, ...] = Field(strict=False)

    @classmethod
    def of(cls, shards: tuple[ShardEntry, ...]) -> Self:
        """The split of these shards, in this order."""
        return cls(
            tokens=sum(shard.tokens for shard in shards),
            sentences=sum(shard.sentences for shard in shards),
            documents=sum(shard.documents for shard in shards),
            blocks=sum(shard.blocks for shard in shards),
            shards=shards,
        )

    @model_validator(mode="after")
    def _sums_agree(self) -> Self:
        for field in ("tokens", "sentences", "documents", "blocks"):
            total = sum(getattr(shard, field) for shard in self.shards)
            if total != getattr(self, field):
                raise ValueError(f"its shards hold {total} {field}, the split says {getattr(self, field)}")
        return self


class Manifest(_Frozen):
    """The whole of manifest.json but its own checksum; `from_file` is the only way from disk."""

    format: Literal["pretrain-token-store"] = "pretrain-token-store"
    version: Literal[1, 2] = 2
    token_dtype: Literal["uint16", "uint32"]
    vocab_size: int = Field(gt=0, le=1 << 26)
    special_ids: SpecialIds
    all_special_ids: tuple[int, ...] = Field(strict=False)
    tokenizer_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    block_tokens: int = Field(gt=0, le=_MAX_COUNT)
    splits: dict[str, SplitEntry]
    files: dict[str, FileEntry]

    @field_validator("files")
    @classmethod
    def _names_stay_inside(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in files:
            problem = name_problem(name)
            if problem is not None:
                raise ValueError(problem)
        return files

    @model_validator(mode="after")
    def _ids_agree(self) -> Self:
        for token_id in (*self.special_ids.model_dump().values(), *self.all_special_ids):
            if not 0 <= token_id < self.vocab_size:
                raise ValueError(f"special id {token_id} is beyond the vocabulary of {self.vocab_size}")
        return self

    @model_validator(mode="after")
    def _files_agree(self) -> Self:
        if set(self.splits) != set(SPLITS):
            raise ValueError(f"splits are {sorted(self.splits)}, expected {sorted(SPLITS)}")
        needed = [f"{TOKENIZER_FOLDER}/tokenizer.json", *([REPORT_NAME] if self.version > 1 else [])]
        for name in needed:
            if name not in self.files:
                raise ValueError(f"file {name} is not listed")
        names = set()
        for _, shard in self.shards():
            if shard.name in names:
                raise ValueError(f"shard {shard.name} is listed twice")
            names.add(shard.name)
            for name, size in shard.expected_bytes(self.dtype).items():
                if name not in self.files:
                    raise ValueError(f"file {name} is not listed")
                if self.files[name].bytes != size:
                    raise ValueError(f"file {name} has {self.files[name].bytes} bytes, its counts say {size}")
        return self

    @property
    def dtype(self) -> np.dtype:
        """The little-endian dtype of the token files."""
        return np.dtype(self.token_dtype).newbyteorder("<")

    def shards(self) -> Iterator[tuple[str, ShardEntry]]:
        """All (split name, shard) pairs in the fixed order of the splits."""
        for split in SPLITS:
            for shard in self.splits[split].shards:
                yield split, shard

    @classmethod
    def from_bytes(cls, content: bytes, path: Path) -> "Manifest":
        """Parse and check, its own checksum too; raises DataError naming `path`."""
        try:
            return cls.model_validate(_parsed(content, path))
        except ValidationError as error:
            problem = misfit(error.errors(include_url=False)[0])
            raise DataError(f"{path}: {problem}; copy or build the store again.") from None

    @classmethod
    def from_file(cls, path: Path) -> "Manifest":
        """Read manifest.json; a missing one is a DataError because its folder is then not a store."""
        return cls.from_bytes(read_manifest_bytes(path), path)

    def as_bytes(self) -> bytes:
        """The content of manifest.json."""
        return sealed(json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True).encode())

    @property
    def fingerprint(self) -> str:
        """Names the text: two stores that train alike have the same one, wherever they were built.

        The sha256 of the manifest without its own checksum, reports (which name the input) and the manifests of
        parts (which cover a report); of a version 1 store, of manifest.json as it is.
        """
        described = self.model_dump(mode="json")
        told_apart = (REPORT_NAME, MANIFEST_NAME)
        described["files"] = {
            name: entry
            for name, entry in described["files"].items()
            if name.rpartition("/")[2] not in told_apart
        }
        return hashlib.sha256((json.dumps(described, indent=1, sort_keys=True) + "\n").encode()).hexdigest()

    def write(self, path: Path) -> None:
        """Write atomically: a reader sees the whole manifest or none."""
        write_atomically(path, self.as_bytes())


def entry_of(content: bytes) -> FileEntry:
    """The entry of a file with this content."""
    return FileEntry(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def _parsed(content: bytes, path: Path) -> dict[str, Any]:
    """The manifest's keys; raises DataError where it is no manifest, of another version, or has changed."""
    try:
        raw = from_json(content, allow_inf_nan=False)
    except ValueError as error:  # nesting too deep is one, too
        raise DataError(f"{path} is not valid JSON ({error}); copy or build the store again.") from None
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise DataError(f"{path} is not the manifest of a token store (its format is not {FORMAT!r}).")
    version = raw.get("version")
    if type(version) is not int or not OLDEST_VERSION <= version <= VERSION:
        raise DataError(
            f"{path} is a token store of version {_shown(version)}, this program reads versions "
            f"{OLDEST_VERSION} to {VERSION}; build the store again, or use the release of this program that "
            "wrote it."
        )
    if version == 1:
        return raw
    if unsealed(content) is None:
        raise DataError(
            f"{path} has changed since it was written: its own checksum does not agree; copy or build the "
            "store again."
        )
    del raw["manifest_sha256"]
    return raw


def _shown(value: Any) -> str:
    """A number as it is; whatever else stands there may be long."""
    return str(value) if type(value) is int and abs(value) <= _MAX_COUNT else f"<{type(value).__name__}>"


def read_manifest_bytes(path: Path) -> bytes:
    """Content of manifest.json; a missing folder is a UsageError, a missing manifest a DataError."""
    try:
        return read_bounded(path, MAX_MANIFEST_BYTES)
    except FileNotFoundError:
        if not path.parent.exists():
            raise UsageError(f"There is no token store at {path.parent}; check the path.") from None
        raise DataError(
            f"{path.parent} is not a token store: it has no {MANIFEST_NAME}; "
            "build it with `python -m data_prep build`."
        ) from None
    except NotADirectoryError:
        raise UsageError(f"{path.parent} is not a folder; give the folder of a token store.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
