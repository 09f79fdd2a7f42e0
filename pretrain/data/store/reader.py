"""Reading a token store: open checks the manifest and every file's size; a block is read when asked for.

Nothing is kept per block or per shard except counts and when each file was last changed, so a store of thousands of
shards opens in the time of one `stat` per file. `StoreSplit.block` reads two lines of its shard's block table and the
block's lengths (small); tokens and word bits are read where somebody looks at them, for planning never does.

Files are read, not mapped: a window copies its tokens anyway (64 blocks of a million tokens out of a warm page
cache: 63 ms read, 44 ms mapped), and a file that is cut short meanwhile is then an error that names it, where a
mapping ends the process by SIGBUS. A file that was touched since the open must still have its checksum.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from pretrain.data.store.files import OpenFiles, check_reaches, look_at
from pretrain.data.store.manifest import (
    BLOCK_COLUMNS,
    BLOCK_DTYPE,
    LENGTH_DTYPE,
    MANIFEST_NAME,
    TOKENIZER_FOLDER,
    WORD_DTYPE,
    Manifest,
    SplitEntry,
    read_manifest_bytes,
)
from pretrain.errors import DataError, UsageError
from pretrain.files import read_items

_BITS_PER_BYTE = 8


@dataclass(frozen=True)
class _Span:
    """Items `start` to `end` (exclusive) of a file."""

    files: OpenFiles
    name: str
    dtype: np.dtype
    start: int
    end: int

    def check(self) -> None:
        """Raises DataError if the file ends before the span does."""
        check_reaches(self.files.path(self.name), self.end * self.dtype.itemsize)

    def read(self) -> np.ndarray:
        """[end - start], a copy; raises DataError if the file ends before the span does, or was replaced."""
        items = read_items(self.files.path(self.name), self.dtype, self.start, self.end - self.start)
        self.files.check(self.name)  # afterwards: what was read is older than what is looked at
        return items


@dataclass(frozen=True)
class Block:
    """Whole documents of one shard, about `block_tokens` tokens.

    sentence_lengths: [sentences] uint32, tokens of each sentence; document_lengths: [documents] uint32, sentences
    of each document; `first_bit` (0..7): the bit of the first token in the packed word starts.
    """

    sentence_lengths: np.ndarray
    document_lengths: np.ndarray
    first_bit: int
    _token_span: _Span
    _word_span: _Span

    @property
    def num_tokens(self) -> int:
        return self._token_span.end - self._token_span.start

    @cached_property
    def tokens(self) -> np.ndarray:
        """[tokens] uint16 or uint32, read when first asked for (DataError if the file has become shorter)."""
        return self._token_span.read()

    @cached_property
    def word_bits(self) -> np.ndarray:
        """Packed word starts, uint8, least significant bit first; read when first asked for."""
        return self._word_span.read()

    def word_starts(self) -> np.ndarray:
        """[tokens] bool: the token begins a word."""
        bits = np.unpackbits(self.word_bits, bitorder="little", count=self.first_bit + self.num_tokens)
        return bits[self.first_bit :].view(np.bool_)


class StoreSplit:
    """One split of an open store: counts, and blocks by index."""

    def __init__(self, files: OpenFiles, name: str, entry: SplitEntry, token_dtype: np.dtype) -> None:
        self.name = name
        self.num_tokens = entry.tokens
        self.num_sentences = entry.sentences
        self.num_documents = entry.documents
        self.num_blocks = entry.blocks
        self._files = files
        self._shards = entry.shards
        self._token_dtype = token_dtype
        self._first_block = np.cumsum([0, *(shard.blocks for shard in entry.shards)], dtype=np.int64)

    def block(self, index: int) -> Block:
        """Block `index` in 0..num_blocks-1; raises DataError if a file has changed since the open."""
        if not 0 <= index < self.num_blocks:
            raise IndexError(f"block {index} of split {self.name!r}, which has {self.num_blocks} blocks")
        shard = int(np.searchsorted(self._first_block, index, side="right")) - 1
        files, stem = self._files, f"{self._shards[shard].name}."
        line = index - int(self._first_block[shard])
        (token, sentence, document), (token_end, sentence_end, document_end) = _table_lines(
            files, stem + "blocks", line
        )
        tokens = _Span(files, stem + "tokens", self._token_dtype, token, token_end)
        words = _Span(
            files, stem + "words", WORD_DTYPE, token // _BITS_PER_BYTE, -(-token_end // _BITS_PER_BYTE)
        )
        tokens.check()
        words.check()
        sentence_lengths = _Span(files, stem + "sentences", LENGTH_DTYPE, sentence, sentence_end).read()
        document_lengths = _Span(files, stem + "documents", LENGTH_DTYPE, document, document_end).read()
        if int(sentence_lengths.sum(dtype=np.int64)) != token_end - token:
            raise _damaged(files.path(stem + "sentences"))
        if int(document_lengths.sum(dtype=np.int64)) != sentence_end - sentence:
            raise _damaged(files.path(stem + "documents"))
        return Block(sentence_lengths, document_lengths, token % _BITS_PER_BYTE, tokens, words)


class TokenStore:
    """An open token store. `open` is the only constructor a caller needs."""

    def __init__(self, path: Path, manifest: Manifest, files: OpenFiles) -> None:
        self.path = path
        self._files = files
        self.manifest = manifest
        self.fingerprint = manifest.fingerprint
        self.vocab_size = manifest.vocab_size
        self.special_ids: dict[str, int] = manifest.special_ids.model_dump()
        self.all_special_ids = manifest.all_special_ids
        self.tokenizer_path = path / TOKENIZER_FOLDER

    @classmethod
    def open(cls, path: str | Path) -> "TokenStore":
        """Check manifest, version and every file's kind and size (no such folder: UsageError; the rest:
        DataError)."""
        folder = Path(path)
        content = read_manifest_bytes(folder / MANIFEST_NAME)
        manifest = Manifest.from_bytes(content, folder / MANIFEST_NAME)
        changed_ns: dict[str, int] = {}
        for name, found in look_at(folder, manifest.files):
            if isinstance(found, str):
                raise DataError(f"{found} The store is damaged: copy or build it again.")
            changed_ns[name] = found
        return cls(folder, manifest, OpenFiles(folder, manifest.files, changed_ns))

    def split(self, name: str) -> StoreSplit:
        """The split `train` or `heldout`; the latter is empty in a store made of a single document."""
        if name not in self.manifest.splits:
            raise UsageError(f"{self.path} has no split {name!r}; it has {', '.join(self.manifest.splits)}.")
        return StoreSplit(self._files, name, self.manifest.splits[name], self.manifest.dtype)


def _table_lines(files: OpenFiles, name: str, line: int) -> list[list[int]]:
    """Where a block and the next one begin, each (token, sentence, document)."""
    lines = _Span(files, name, BLOCK_DTYPE, line * BLOCK_COLUMNS, (line + 2) * BLOCK_COLUMNS).read()
    begin, end = lines.reshape(2, BLOCK_COLUMNS)
    if not (begin < end).all():
        raise _damaged(files.path(name))
    return [begin.tolist(), end.tolist()]


def _damaged(path: str) -> DataError:
    return DataError(
        f"{path} has changed: its counts do not fit the block; `python -m data_prep verify` names all damage."
    )
