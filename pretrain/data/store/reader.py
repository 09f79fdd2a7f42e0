"""Reading a token store: open checks the manifest and every file's size; a block is mapped when asked for.

Nothing is kept per block or per shard except counts, so a store of thousands of shards opens in the time of
one `stat` per file. A block reads two lines of its shard's block table, copies its lengths and word bits
(small) and maps its tokens; a mapping lives as long as the block, and so does its one file descriptor.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pretrain.data.store.manifest import (
    BLOCK_COLUMNS,
    BLOCK_DTYPE,
    LENGTH_DTYPE,
    MANIFEST_NAME,
    TOKENIZER_FOLDER,
    WORD_DTYPE,
    FileEntry,
    Manifest,
    SplitEntry,
    read_manifest_bytes,
)
from pretrain.errors import DataError, UsageError


@dataclass(frozen=True)
class Block:
    """Whole documents of one shard, about `block_tokens` tokens.

    tokens: [tokens] uint16 or uint32, mapped, read-only; sentence_lengths: [sentences] uint32, tokens of each
    sentence; document_lengths: [documents] uint32, sentences of each document; word_bits: packed word starts,
    of which the first token's is bit number `first_bit` (0..7).
    """

    tokens: np.ndarray
    sentence_lengths: np.ndarray
    document_lengths: np.ndarray
    word_bits: np.ndarray
    first_bit: int = 0

    def word_starts(self) -> np.ndarray:
        """[tokens] bool: the token begins a word."""
        bits = np.unpackbits(self.word_bits, bitorder="little", count=self.first_bit + len(self.tokens))
        return bits[self.first_bit :].view(np.bool_)


class StoreSplit:
    """One split of an open store: counts, and blocks by index."""

    def __init__(self, folder: Path, name: str, entry: SplitEntry, token_dtype: np.dtype) -> None:
        self.name = name
        self.num_tokens = entry.tokens
        self.num_sentences = entry.sentences
        self.num_documents = entry.documents
        self.num_blocks = entry.blocks
        self._folder = folder
        self._shards = entry.shards
        self._token_dtype = token_dtype
        self._first_block = np.cumsum([0, *(shard.blocks for shard in entry.shards)], dtype=np.int64)

    def block(self, index: int) -> Block:
        """Block `index` in 0..num_blocks-1; raises DataError if a file has become shorter since the open."""
        if not 0 <= index < self.num_blocks:
            raise IndexError(f"block {index} of split {self.name!r}, which has {self.num_blocks} blocks")
        shard = int(np.searchsorted(self._first_block, index, side="right")) - 1
        stem = f"{self._folder / self._shards[shard].name}."
        line = index - int(self._first_block[shard])
        lines = _read(stem + "blocks", BLOCK_DTYPE, line * BLOCK_COLUMNS, (line + 2) * BLOCK_COLUMNS)
        (token, sentence, document), (token_end, sentence_end, document_end) = lines.reshape(2, -1).tolist()
        return Block(
            tokens=_map(stem + "tokens", self._token_dtype, token, token_end),
            sentence_lengths=_read(stem + "sentences", LENGTH_DTYPE, sentence, sentence_end),
            document_lengths=_read(stem + "documents", LENGTH_DTYPE, document, document_end),
            word_bits=_read(stem + "words", WORD_DTYPE, token // 8, (token_end + 7) // 8),
            first_bit=token % 8,
        )


class TokenStore:
    """An open token store. `open` is the only constructor a caller needs."""

    def __init__(self, path: Path, manifest: Manifest, fingerprint: str) -> None:
        self.path = path
        self.manifest = manifest
        self.fingerprint = fingerprint
        self.vocab_size = manifest.vocab_size
        self.special_ids: dict[str, int] = manifest.special_ids.model_dump()
        self.all_special_ids = manifest.all_special_ids
        self.tokenizer_path = path / TOKENIZER_FOLDER

    @classmethod
    def open(cls, path: str | Path) -> "TokenStore":
        """Check manifest, version and every file's size (no such folder: UsageError; the rest: DataError)."""
        folder = Path(path)
        content = read_manifest_bytes(folder / MANIFEST_NAME)
        manifest = Manifest.from_bytes(content, folder / MANIFEST_NAME)
        for name, entry in manifest.files.items():
            problem = size_problem(folder, name, entry)
            if problem is not None:
                raise DataError(f"{problem} The store is damaged: copy or build it again.")
        return cls(folder, manifest, hashlib.sha256(content).hexdigest())

    def split(self, name: str) -> StoreSplit:
        """The split `train` or `heldout`; the latter is empty in a store made of a single document."""
        if name not in self.manifest.splits:
            raise UsageError(f"{self.path} has no split {name!r}; it has {', '.join(self.manifest.splits)}.")
        return StoreSplit(self.path, name, self.manifest.splits[name], self.manifest.dtype)


def size_problem(folder: Path, name: str, entry: FileEntry) -> str | None:
    """A sentence naming the file if it is missing or its size is not the manifest's."""
    try:
        actual_bytes = (folder / name).stat().st_size
    except OSError as error:
        return f"{folder / name} cannot be read: {error.strerror or error}."
    if actual_bytes != entry.bytes:
        return f"{folder / name} has {actual_bytes} bytes, the manifest says {entry.bytes}."
    return None


def _read(path: str, dtype: np.dtype, start: int, end: int) -> np.ndarray:
    """Items `start` to `end` (exclusive), copied."""
    try:
        items = np.fromfile(path, dtype=dtype, count=end - start, offset=start * dtype.itemsize)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    if len(items) != end - start:
        raise DataError(f"{path} became shorter while it was in use; copy or build the store again.")
    return items


def _map(path: str, dtype: np.dtype, start: int, end: int) -> np.ndarray:
    """The same as a read-only mapping."""
    try:
        mapped = np.memmap(path, dtype=dtype, mode="r", offset=start * dtype.itemsize, shape=(end - start,))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    except ValueError:
        raise DataError(f"{path} became shorter while in use; copy or build the store again.") from None
    # A plain array: slicing a np.memmap pays for its subclass each time.
    return np.asarray(mapped)
