"""Writing a token store: documents in, hashed shard files, then the manifest, then the folder's name.

1. `StoreWriter.add(split, documents)` takes whole documents in order and cuts them at block and shard ends;
   where a cut falls depends on the documents alone, not on how they were batched;
2. a `ShardWriter` appends to five files and hashes what it writes; blocks never cross a shard;
3. `finish` closes and fsyncs all, writes report.json and manifest.json into the partial folder, renames it.

A build that dies leaves only the partial folder (a hidden sibling), which no reader takes for a store.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from pretrain.data.store.manifest import (
    BLOCK_DTYPE,
    LENGTH_DTYPE,
    MANIFEST_NAME,
    REPORT_NAME,
    SPLITS,
    TOKENIZER_FOLDER,
    FileEntry,
    Manifest,
    ShardEntry,
    SpecialIds,
    SplitEntry,
    fsync_folder,
    write_atomically,
)

_BUFFER_BYTES = 1 << 20


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


@dataclass(frozen=True)
class StoreLayout:
    """What the writer must know beforehand: the vocabulary, and where to cut."""

    vocab_size: int
    special_ids: SpecialIds
    all_special_ids: tuple[int, ...]
    block_tokens: int = 1 << 20
    shard_tokens: int = 256_000_000

    @property
    def token_dtype(self) -> np.dtype:
        """uint16 where every id fits."""
        return np.dtype("<u2") if self.vocab_size <= 1 << 16 else np.dtype("<u4")


def partial_path(path: Path) -> Path:
    """The hidden sibling in which a store is built before it gets its name."""
    return path.with_name(f".{path.name}.partial")


class _HashedFile:
    """A file that hashes what goes through it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=_BUFFER_BYTES)
        self._hash = hashlib.sha256()
        self._bytes = 0
        self.name = path.name

    def write(self, array: np.ndarray) -> None:
        data = np.ascontiguousarray(array).data.cast("B")
        self._file.write(data)
        self._hash.update(data)
        self._bytes += len(data)

    def close(self) -> FileEntry:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return FileEntry(bytes=self._bytes, sha256=self._hash.hexdigest())

    def abandon(self) -> None:
        self._file.close()


class ShardWriter:
    """Appends whole documents to one shard's five files."""

    def __init__(self, folder: Path, name: str, token_dtype: np.dtype) -> None:
        self.name = name
        self.tokens = 0
        self._counts = np.zeros(3, dtype=np.int64)  # tokens, sentences, documents
        self._block_starts = [self._counts.copy()]
        self._token_dtype = token_dtype
        self._pending_bits = np.zeros(0, dtype=np.bool_)
        self._files = {
            suffix: _HashedFile(folder / f"{name}.{suffix}")
            for suffix in ("tokens", "sentences", "documents", "words", "blocks")
        }

    @property
    def open_block_tokens(self) -> int:
        """Tokens since the last block end."""
        return int(self._counts[0] - self._block_starts[-1][0])

    def append(self, documents: Documents) -> None:
        self._files["tokens"].write(documents.tokens.astype(self._token_dtype, copy=False))
        self._files["sentences"].write(documents.sentence_lengths.astype(LENGTH_DTYPE, copy=False))
        self._files["documents"].write(documents.document_lengths.astype(LENGTH_DTYPE, copy=False))
        bits = np.concatenate([self._pending_bits, documents.word_starts])
        whole = len(bits) // 8 * 8
        self._files["words"].write(np.packbits(bits[:whole], bitorder="little"))
        self._pending_bits = bits[whole:]
        added = len(documents.tokens), len(documents.sentence_lengths), len(documents.document_lengths)
        self._counts += np.array(added)
        self.tokens += len(documents.tokens)

    def end_block(self) -> None:
        """The next document begins a new block."""
        if self.open_block_tokens:
            self._block_starts.append(self._counts.copy())

    def close(self) -> tuple[ShardEntry, dict[str, FileEntry]]:
        """End the last block, flush, fsync; the shard's entry and its files' by name."""
        self.end_block()
        self._files["words"].write(np.packbits(self._pending_bits, bitorder="little"))
        self._files["blocks"].write(np.stack(self._block_starts).astype(BLOCK_DTYPE))
        tokens, sentences, documents = self._counts.tolist()
        entry = ShardEntry(
            name=self.name,
            tokens=tokens,
            sentences=sentences,
            documents=documents,
            blocks=len(self._block_starts) - 1,
        )
        return entry, {file.name: file.close() for file in self._files.values()}

    def abandon(self) -> None:
        for file in self._files.values():
            file.abandon()


class StoreWriter:
    """Builds a store in `partial_path(path)`, which must not exist; `finish` gives it its name."""

    def __init__(self, path: Path, layout: StoreLayout) -> None:
        self.path = path
        self.folder = partial_path(path)
        self.layout = layout
        self.folder.mkdir(parents=True)
        self.tokenizer_path.mkdir()
        self._open: dict[str, ShardWriter] = {}
        self._shards: dict[str, list[ShardEntry]] = {split: [] for split in SPLITS}
        self._files: dict[str, FileEntry] = {}
        self._forbidden = np.zeros(layout.vocab_size, dtype=np.bool_)
        self._forbidden[list(set(layout.all_special_ids) - {layout.special_ids.unk})] = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for shard in self._open.values():
            shard.abandon()

    @property
    def tokenizer_path(self) -> Path:
        """Where the caller saves the tokenizer before `finish`."""
        return self.folder / TOKENIZER_FOLDER

    def add(self, split: str, documents: Documents) -> None:
        """Append whole documents to a split, each block and shard cut at the first document that fills it."""
        if len(documents.document_lengths) == 0:
            return
        self._check(documents)
        sentence_ends, token_ends = documents.ends()
        first, sentence, token = 0, 0, 0
        while first < len(token_ends):
            shard = self._open_shard(split)
            block_room = self.layout.block_tokens - shard.open_block_tokens
            room = min(block_room, self.layout.shard_tokens - shard.tokens)
            last = min(int(np.searchsorted(token_ends, token + room)) + 1, len(token_ends))
            sentence_end, token_end = int(sentence_ends[last - 1]), int(token_ends[last - 1])
            shard.append(
                Documents(
                    tokens=documents.tokens[token:token_end],
                    sentence_lengths=documents.sentence_lengths[sentence:sentence_end],
                    document_lengths=documents.document_lengths[first:last],
                    word_starts=documents.word_starts[token:token_end],
                )
            )
            if shard.open_block_tokens >= self.layout.block_tokens:
                shard.end_block()
            if shard.tokens >= self.layout.shard_tokens:
                self._close_shard(split)
            first, sentence, token = last, sentence_end, token_end

    def finish(self, report: dict[str, Any]) -> Manifest:
        """Write report and manifest and rename the folder to `path`, which must not exist."""
        for split in list(self._open):
            self._close_shard(split)
        for file in sorted(self.tokenizer_path.iterdir()):
            self._files[f"{TOKENIZER_FOLDER}/{file.name}"] = _seal(file)
        fsync_folder(self.tokenizer_path)
        manifest = Manifest(
            token_dtype="uint16" if self.layout.token_dtype.itemsize == 2 else "uint32",
            vocab_size=self.layout.vocab_size,
            special_ids=self.layout.special_ids,
            all_special_ids=self.layout.all_special_ids,
            tokenizer_sha256=self._files[f"{TOKENIZER_FOLDER}/tokenizer.json"].sha256,
            block_tokens=self.layout.block_tokens,
            splits={split: _sum(shards) for split, shards in self._shards.items()},
            files=self._files,
        )
        write_atomically(self.folder / REPORT_NAME, (json.dumps(report, indent=1) + "\n").encode())
        manifest.write(self.folder / MANIFEST_NAME)
        self.folder.rename(self.path)
        fsync_folder(self.path.parent)
        return manifest

    def _check(self, documents: Documents) -> None:
        lengths = documents.sentence_lengths, documents.document_lengths
        if any(len(array) and int(array.min()) < 1 for array in lengths):
            raise ValueError("a sentence without tokens or a document without sentences")
        if {int(lengths[0].sum(dtype=np.int64)), len(documents.word_starts)} != {len(documents.tokens)}:
            raise ValueError("sentence lengths, word starts and tokens disagree")
        if int(lengths[1].sum(dtype=np.int64)) != len(lengths[0]):
            raise ValueError("document lengths and sentences disagree")
        if int(documents.tokens.max()) >= self.layout.vocab_size or self._forbidden[documents.tokens].any():
            raise ValueError("a token id beyond the vocabulary, or of a special token that is not [UNK]")

    def _open_shard(self, split: str) -> ShardWriter:
        if split not in self._open:
            name = f"{split}-{len(self._shards[split]):05d}"
            self._open[split] = ShardWriter(self.folder, name, self.layout.token_dtype)
        return self._open[split]

    def _close_shard(self, split: str) -> None:
        entry, files = self._open.pop(split).close()
        self._shards[split].append(entry)
        self._files.update(files)


def _sum(shards: list[ShardEntry]) -> SplitEntry:
    return SplitEntry(
        tokens=sum(shard.tokens for shard in shards),
        sentences=sum(shard.sentences for shard in shards),
        documents=sum(shard.documents for shard in shards),
        blocks=sum(shard.blocks for shard in shards),
        shards=tuple(shards),
    )


def _seal(path: Path) -> FileEntry:
    """fsync a file that another library wrote, and hash it."""
    with path.open("rb") as file:
        content = file.read()
        os.fsync(file.fileno())
    return FileEntry(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
