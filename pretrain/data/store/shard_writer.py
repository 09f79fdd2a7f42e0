"""Writing one shard: whole documents in, five files out, hashed as they are written.

A shard that is not finished can be put down and taken up again: `state` says, once the files are flushed, how
much of each belongs to it and the checksum of that much. `written_digests` hashes it again and compares;
`ShardWriter.resume` cuts the files back to it and goes on. Whatever was written behind it, whole or torn, is gone.
"""

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pretrain.data.store.files import chunks_of
from pretrain.data.store.manifest import BLOCK_COLUMNS, BLOCK_DTYPE, LENGTH_DTYPE, FileEntry, ShardEntry
from pretrain.errors import DataError

SUFFIXES = ("tokens", "sentences", "documents", "words", "blocks")
_BUFFER_BYTES = 1 << 20
_BITS_PER_BYTE = 8
_Count = Annotated[int, Field(ge=0, lt=1 << 60)]
_Place = Annotated[tuple[_Count, _Count, _Count], Field(strict=False)]  # tokens, sentences, documents


@dataclass(frozen=True)
class Documents:
    """Consecutive whole documents.

    tokens: [tokens] ids; sentence_lengths: [sentences] tokens of each; document_lengths: [documents]
    sentences of each; word_starts: [tokens] bool. No length is 0.
    """

    tokens: np.ndarray
    sentence_lengths: np.ndarray
    document_lengths: np.ndarray
    word_starts: np.ndarray

    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Exclusive end of each document, in sentences and in tokens: two int64 arrays [documents]."""
        sentence_ends = np.cumsum(self.document_lengths, dtype=np.int64)
        token_ends = np.cumsum(self.sentence_lengths, dtype=np.int64)
        return sentence_ends, token_ends[sentence_ends - 1]


class ShardState(BaseModel):
    """A shard that is being written: counts so far, where its blocks begin (the open one's last), the word bits of
    the tokens after the last whole byte, one character "0" or "1" each, and the sha256 of what belongs to it of
    each file, by suffix."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(pattern=r"^[a-z]+-[0-9]{5,}$")
    counts: _Place
    block_starts: tuple[_Place, ...] = Field(strict=False, min_length=1)
    pending_bits: str = Field(pattern=r"^[01]{0,7}$")
    sha256: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]]

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        rows = np.array([*self.block_starts, self.counts])
        if rows[0].any() or (np.diff(rows[:-1], axis=0) <= 0).any() or (rows[-1] < rows[-2]).any():
            raise ValueError("the blocks' starts do not rise from zero to the counts")
        if len(self.pending_bits) != self.counts[0] % _BITS_PER_BYTE:
            raise ValueError("the pending word bits are not those of the tokens after the last whole byte")
        if self.sha256.keys() != set(SUFFIXES):
            raise ValueError("a file has no checksum")
        return self

    def file_bytes(self, token_dtype: np.dtype) -> dict[str, int]:
        """Size of what belongs to the shard so far, by suffix; the block table is written at the end."""
        tokens, sentences, documents = self.counts
        return {
            "tokens": tokens * token_dtype.itemsize,
            "sentences": sentences * LENGTH_DTYPE.itemsize,
            "documents": documents * LENGTH_DTYPE.itemsize,
            "words": tokens // _BITS_PER_BYTE,
            "blocks": 0,
        }


class ShardWriter:
    """Appends whole documents to one shard's five files."""

    def __init__(self, state: ShardState, token_dtype: np.dtype, files: dict[str, "_HashedFile"]) -> None:
        self.name = state.name
        self._counts = np.array(state.counts, dtype=np.int64)  # tokens, sentences, documents
        self._block_starts = [np.array(start, dtype=np.int64) for start in state.block_starts]
        self._pending_bits = np.array([bit == "1" for bit in state.pending_bits], dtype=np.bool_)
        self._token_dtype = token_dtype
        self._files = files

    @classmethod
    def begin(cls, folder: Path, name: str, token_dtype: np.dtype) -> Self:
        """A new shard; files of that name are written over."""
        files = {suffix: _HashedFile.create(folder / f"{name}.{suffix}") for suffix in SUFFIXES}
        nothing = {suffix: file.sha256 for suffix, file in files.items()}
        state = ShardState(
            name=name, counts=(0, 0, 0), block_starts=((0, 0, 0),), pending_bits="", sha256=nothing
        )
        return cls(state, token_dtype, files)

    @classmethod
    def resume(
        cls, folder: Path, state: ShardState, token_dtype: np.dtype, digests: "dict[str, hashlib._Hash]"
    ) -> Self:
        """Go on behind `state`; `digests` are `written_digests` of it."""
        files = {
            suffix: _HashedFile.resume(folder / f"{state.name}.{suffix}", size, digests[suffix])
            for suffix, size in state.file_bytes(token_dtype).items()
        }
        return cls(state, token_dtype, files)

    @property
    def tokens(self) -> int:
        return int(self._counts[0])

    @property
    def open_block_tokens(self) -> int:
        """Tokens since the last block end."""
        return int(self._counts[0] - self._block_starts[-1][0])

    def append(self, documents: Documents) -> None:
        self._files["tokens"].write(documents.tokens.astype(self._token_dtype, copy=False))
        self._files["sentences"].write(documents.sentence_lengths.astype(LENGTH_DTYPE, copy=False))
        self._files["documents"].write(documents.document_lengths.astype(LENGTH_DTYPE, copy=False))
        bits = np.concatenate([self._pending_bits, documents.word_starts])
        whole = len(bits) // _BITS_PER_BYTE * _BITS_PER_BYTE
        self._files["words"].write(np.packbits(bits[:whole], bitorder="little"))
        self._pending_bits = bits[whole:]
        added = len(documents.tokens), len(documents.sentence_lengths), len(documents.document_lengths)
        self._counts += np.array(added)

    def end_block(self) -> None:
        """The next document begins a new block."""
        if self.open_block_tokens:
            self._block_starts.append(self._counts.copy())

    def state(self) -> ShardState:
        """What is written so far, durable by the time this returns."""
        for file in self._files.values():
            file.sync()
        tokens, sentences, documents = self._counts.tolist()
        return ShardState(
            name=self.name,
            counts=(tokens, sentences, documents),
            block_starts=tuple(tuple(start.tolist()) for start in self._block_starts),
            pending_bits="".join("1" if bit else "0" for bit in self._pending_bits.tolist()),
            sha256={suffix: file.sha256 for suffix, file in self._files.items()},
        )

    def close(self) -> tuple[ShardEntry, dict[str, FileEntry]]:
        """End the last block, flush, fsync; the shard's entry and its files' by name."""
        self.end_block()
        self._files["words"].write(np.packbits(self._pending_bits, bitorder="little"))
        table = np.stack(self._block_starts).astype(BLOCK_DTYPE)
        assert table.shape[1] == BLOCK_COLUMNS
        self._files["blocks"].write(table)
        tokens, sentences, documents = self._counts.tolist()
        entry = ShardEntry(
            name=self.name,
            tokens=tokens,
            sentences=sentences,
            documents=documents,
            blocks=len(self._block_starts) - 1,
        )
        return entry, {f"{self.name}.{suffix}": file.close() for suffix, file in self._files.items()}

    def abandon(self) -> None:
        for file in self._files.values():
            file.abandon()


class _HashedFile:
    """A file that hashes what goes through it; `digest` has seen its `num_bytes` so far."""

    def __init__(self, file: BinaryIO, digest: "hashlib._Hash", num_bytes: int) -> None:
        self._file = file
        self._digest = digest
        self._bytes = num_bytes

    @classmethod
    def create(cls, path: Path) -> Self:
        return cls(path.open("wb", buffering=_BUFFER_BYTES), hashlib.sha256(), 0)

    @classmethod
    def resume(cls, path: Path, num_bytes: int, digest: "hashlib._Hash") -> Self:
        """The first `num_bytes` of a file that is there, which `digest` has seen; the rest is cut off."""
        os.truncate(path, num_bytes)
        return cls(path.open("ab", buffering=_BUFFER_BYTES), digest, num_bytes)

    @property
    def sha256(self) -> str:
        """Of what was written so far, in hex digits."""
        return self._digest.hexdigest()

    def write(self, array: np.ndarray) -> None:
        data = np.ascontiguousarray(array).data.cast("B")
        self._file.write(data)
        self._digest.update(data)
        self._bytes += len(data)

    def sync(self) -> None:
        """What was written is on the disk when this returns."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> FileEntry:
        self.sync()
        self._file.close()
        return FileEntry(bytes=self._bytes, sha256=self.sha256)

    def abandon(self) -> None:
        # Closing flushes, and where the disk is full that is known already.
        with contextlib.suppress(OSError):
            self._file.close()


def written_digests(folder: Path, state: ShardState, token_dtype: np.dtype) -> "dict[str, hashlib._Hash]":
    """What has hashed as much of each file as `state` says, by suffix, ready to hash what follows.

    Raises DataError naming a file that holds less, or something else.
    """
    digests = {}
    for suffix, num_bytes in state.file_bytes(token_dtype).items():
        path = folder / f"{state.name}.{suffix}"
        check_at_least(path, num_bytes)
        digest, left = hashlib.sha256(), num_bytes
        for chunk in chunks_of(path):
            digest.update(chunk[:left])
            left -= min(left, len(chunk))
            if not left:
                break
        if digest.hexdigest() != state.sha256[suffix]:
            raise DataError(
                f"{path} has changed: its first {num_bytes} bytes are not those that the interrupted build had "
                "written: build the store again without --resume."
            )
        digests[suffix] = digest
    return digests


def check_at_least(path: Path, num_bytes: int) -> None:
    """Raises DataError if a file that an interrupted build had written is missing or too short."""
    try:
        actual_bytes = path.stat().st_size
    except OSError as error:
        raise _unfit(f"{path} cannot be read ({error.strerror or error})", num_bytes) from None
    if actual_bytes < num_bytes:
        raise _unfit(f"{path} has {actual_bytes} bytes", num_bytes)


def _unfit(what: str, num_bytes: int) -> DataError:
    return DataError(
        f"{what}, and the interrupted build had written {num_bytes}: build the store again without --resume."
    )
