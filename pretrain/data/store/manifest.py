"""The manifest: what a token store holds, file by file.

It carries no time, no absolute path and no worker count, so the same input and options give the same bytes,
and their sha256 is the store's fingerprint.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pretrain.errors import DataError, UsageError

FORMAT = "pretrain-token-store"
VERSION = 1
MANIFEST_NAME = "manifest.json"
REPORT_NAME = "report.json"
TOKENIZER_FOLDER = "tokenizer"
SPLITS = ("train", "heldout")

BLOCK_COLUMNS = 3
LENGTH_DTYPE = np.dtype("<u4")
BLOCK_DTYPE = np.dtype("<u8")
WORD_DTYPE = np.dtype(np.uint8)


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
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class _Counts(_Frozen):
    tokens: int = Field(ge=0)
    sentences: int = Field(ge=0)
    documents: int = Field(ge=0)
    blocks: int = Field(ge=0)


class ShardEntry(_Counts):
    name: str

    def expected_bytes(self, token_dtype: np.dtype) -> dict[str, int]:
        """Size in bytes of each of the shard's files, by name."""
        return {
            f"{self.name}.tokens": self.tokens * token_dtype.itemsize,
            f"{self.name}.sentences": self.sentences * LENGTH_DTYPE.itemsize,
            f"{self.name}.documents": self.documents * LENGTH_DTYPE.itemsize,
            f"{self.name}.words": (self.tokens + 7) // 8,
            f"{self.name}.blocks": (self.blocks + 1) * BLOCK_COLUMNS * BLOCK_DTYPE.itemsize,
        }


class SplitEntry(_Counts):
    shards: tuple[ShardEntry, ...] = Field(strict=False)

    @model_validator(mode="after")
    def _sums_agree(self) -> Self:
        for field in ("tokens", "sentences", "documents", "blocks"):
            total = sum(getattr(shard, field) for shard in self.shards)
            if total != getattr(self, field):
                raise ValueError(f"its shards hold {total} {field}, the split says {getattr(self, field)}")
        return self


class Manifest(_Frozen):
    """The whole of manifest.json; `from_file` is the only way from disk."""

    format: Literal["pretrain-token-store"] = "pretrain-token-store"
    version: Literal[1] = 1
    token_dtype: Literal["uint16", "uint32"]
    vocab_size: int = Field(gt=0)
    special_ids: SpecialIds
    all_special_ids: tuple[int, ...] = Field(strict=False)
    tokenizer_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    block_tokens: int = Field(gt=0)
    splits: dict[str, SplitEntry]
    files: dict[str, FileEntry]

    @field_validator("files")
    @classmethod
    def _names_stay_inside(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in files:
            path = PurePosixPath(name)
            if not name or path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
                raise ValueError(f"file name {name!r} leaves the store")
        return files

    @model_validator(mode="after")
    def _files_agree(self) -> Self:
        if set(self.splits) != set(SPLITS):
            raise ValueError(f"splits are {sorted(self.splits)}, expected {sorted(SPLITS)}")
        for _, shard in self.shards():
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
        """Parse and check; raises DataError naming `path`."""
        try:
            raw = json.loads(content)
        except ValueError as error:
            raise DataError(f"{path} is not valid JSON ({error}); build the store again.") from None
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            raise DataError(f"{path} is not the manifest of a token store (its format is not {FORMAT!r}).")
        if raw.get("version") != VERSION:
            raise DataError(
                f"{path} is a token store of version {raw.get('version')!r}, this program reads version "
                f"{VERSION}; build the store again, or use the release of this program that wrote it."
            )
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the manifest"
            raise DataError(f"{path}: {where}: {first['msg']}; build the store again.") from None

    @classmethod
    def from_file(cls, path: Path) -> "Manifest":
        """Read manifest.json; a missing one is a DataError because its folder is then not a store."""
        return cls.from_bytes(read_manifest_bytes(path), path)

    def write(self, path: Path) -> None:
        """Write atomically: a reader sees the whole manifest or none."""
        content = json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"
        write_atomically(path, content.encode())


def read_manifest_bytes(path: Path) -> bytes:
    """Content of manifest.json; a missing folder is a UsageError, a missing manifest a DataError."""
    try:
        return path.read_bytes()
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


def write_atomically(path: Path, content: bytes) -> None:
    """Temporary file, fsync, rename, fsync of the folder."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    fsync_folder(path.parent)


def fsync_folder(path: Path) -> None:
    """Make renames and new names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
