"""Writing a token store: documents in, hashed shard files, then the manifest, then the folder's name.

1. `StoreWriter.add(split, documents)` takes whole documents in order and ends a block with the first document
   that fills it; where that is depends on the documents and on `end_blocks` alone, not on how they were
   batched, nor on where shards begin;
2. a `ShardWriter` appends to five files and hashes what it writes; a shard ends with the first block that fills
   it;
3. `finish` closes and fsyncs all, writes report.json and manifest.json into the partial folder, renames it.

A build that dies leaves only the partial folder (a hidden sibling), which no reader takes for a store.
`StoreWriter.resume` goes on in it behind the last `snapshot`, and the bytes are those of a build that was
never interrupted.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pretrain.data.store.files import fsync_file, fsync_folder, write_atomically
from pretrain.data.store.manifest import (
    MANIFEST_NAME,
    REPORT_NAME,
    SPLITS,
    TOKENIZER_FOLDER,
    FileEntry,
    Manifest,
    ShardEntry,
    SpecialIds,
    SplitEntry,
    entry_of,
)
from pretrain.data.store.shard_writer import (
    SUFFIXES,
    Documents,
    ShardState,
    ShardWriter,
    check_at_least,
    written_digests,
)
from pretrain.errors import DataError, misfit

_OWN_FILE = re.compile(rf"(?:{'|'.join(SPLITS)})-\d{{5,}}\.(?:{'|'.join(SUFFIXES)})")


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

    @property
    def tokens_that_end_a_block(self) -> int:
        """A block fills no more than a shard may hold."""
        return min(self.block_tokens, self.shard_tokens)


class WriterState(BaseModel):
    """How far a store has been written: what `StoreWriter.resume` needs besides the partial folder."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    vocab_size: int
    block_tokens: int
    shard_tokens: int
    # Finished ones, by split.
    shards: dict[str, Annotated[tuple[ShardEntry, ...], Field(strict=False)]]
    open_shards: dict[str, ShardState]
    files: dict[str, FileEntry]  # of the finished shards and of the tokenizer

    def to_json(self) -> str:
        """One line."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, content: str | bytes) -> "WriterState":
        """Raises DataError where that is not what `to_json` gives."""
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            problem = misfit(error.errors(include_url=False)[0])
            raise DataError(
                f"The state of the interrupted build is damaged ({problem}); "
                "build the store again without --resume."
            ) from None


def partial_path(path: Path) -> Path:
    """The hidden sibling in which a store is built before it gets its name."""
    return path.with_name(f".{path.name}.partial")


class StoreWriter:
    """Builds a store in `partial_path(path)`, which must not exist; `finish` gives it its name."""

    def __init__(self, path: Path, layout: StoreLayout, state: WriterState | None = None) -> None:
        self.path = path
        self.folder = partial_path(path)
        self.layout = layout
        self._open: dict[str, ShardWriter] = {}
        self._shards: dict[str, list[ShardEntry]] = {split: [] for split in SPLITS}
        self._files: dict[str, FileEntry] = {}
        self._forbidden = _runs(set(layout.all_special_ids) - {layout.special_ids.unk})
        if state is None:
            self.folder.mkdir(parents=True)
            self.tokenizer_path.mkdir()
        else:
            self._take_up(state)

    @classmethod
    def resume(cls, path: Path, layout: StoreLayout, state: WriterState) -> Self:
        """Go on in the partial folder behind a `snapshot`; what was written after it is removed.

        Raises DataError, with nothing changed, where folder or layout do not fit the state.
        """
        return cls(path, layout, state)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for shard in self._open.values():
            shard.abandon()

    @property
    def tokenizer_path(self) -> Path:
        """Where the caller saves the tokenizer before the first `snapshot` or `finish`."""
        return self.folder / TOKENIZER_FOLDER

    def add(self, split: str, documents: Documents) -> None:
        """Append whole documents to a split; each block, and each shard, ends with what first fills it."""
        if len(documents.document_lengths) == 0:
            return
        self._check(documents)
        sentence_ends, token_ends = documents.ends()
        first, sentence, token = 0, 0, 0
        while first < len(token_ends):
            shard = self._open_shard(split)
            room = self.layout.tokens_that_end_a_block - shard.open_block_tokens
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
            if shard.open_block_tokens >= self.layout.tokens_that_end_a_block:
                self._end_block(split)
            first, sentence, token = last, sentence_end, token_end

    def end_blocks(self) -> None:
        """A segment of the corpus is over: the next document of each split begins a block."""
        for split in list(self._open):
            self._end_block(split)

    def snapshot(self) -> WriterState:
        """How far the store is written; the files hold at least that much, durably, when this returns."""
        open_shards = {split: shard.state() for split, shard in sorted(self._open.items())}
        tokenizer_files = self._sealed_tokenizer()
        fsync_folder(self.folder)
        fsync_folder(self.folder.parent)
        return WriterState(
            vocab_size=self.layout.vocab_size,
            block_tokens=self.layout.block_tokens,
            shard_tokens=self.layout.shard_tokens,
            shards={split: tuple(shards) for split, shards in self._shards.items()},
            open_shards=open_shards,
            files={**self._files, **tokenizer_files},
        )

    def finish(self, report: dict[str, Any]) -> Manifest:
        """Write report and manifest and rename the folder to `path`, which must not exist."""
        for split in list(self._open):
            self._close_shard(split)
        self._files.update(self._sealed_tokenizer())
        content = report_bytes(report)
        self._files[REPORT_NAME] = entry_of(content)
        manifest = Manifest(
            token_dtype="uint16" if self.layout.token_dtype.itemsize == 2 else "uint32",
            vocab_size=self.layout.vocab_size,
            special_ids=self.layout.special_ids,
            all_special_ids=self.layout.all_special_ids,
            tokenizer_sha256=self._files[f"{TOKENIZER_FOLDER}/tokenizer.json"].sha256,
            block_tokens=self.layout.block_tokens,
            splits={split: SplitEntry.of(tuple(shards)) for split, shards in self._shards.items()},
            files=self._files,
        )
        write_atomically(self.folder / REPORT_NAME, content)
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
        if int(documents.tokens.max()) >= self.layout.vocab_size or self._has_forbidden(documents.tokens):
            raise ValueError("a token id beyond the vocabulary, or of a special token that is not [UNK]")

    def _has_forbidden(self, tokens: np.ndarray) -> bool:
        return any(((tokens >= first) & (tokens < first + count)).any() for first, count in self._forbidden)

    def _open_shard(self, split: str) -> ShardWriter:
        if split not in self._open:
            name = f"{split}-{len(self._shards[split]):05d}"
            self._open[split] = ShardWriter.begin(self.folder, name, self.layout.token_dtype)
        return self._open[split]

    def _end_block(self, split: str) -> None:
        self._open[split].end_block()
        if self._open[split].tokens >= self.layout.shard_tokens:
            self._close_shard(split)

    def _close_shard(self, split: str) -> None:
        entry, files = self._open.pop(split).close()
        self._shards[split].append(entry)
        self._files.update(files)

    def _sealed_tokenizer(self) -> dict[str, FileEntry]:
        """The tokenizer's files, made durable; another library wrote them."""
        entries: dict[str, FileEntry] = {}
        if not self.tokenizer_path.is_dir():
            return entries
        for path in sorted(self.tokenizer_path.rglob("*")):
            fsync_file(path)
            if path.is_file():
                entries[path.relative_to(self.folder).as_posix()] = entry_of(path.read_bytes())
        fsync_folder(self.tokenizer_path)
        return entries

    def _take_up(self, state: WriterState) -> None:
        self._check_state(state)
        digests = {
            split: written_digests(self.folder, shard, self.layout.token_dtype)
            for split, shard in state.open_shards.items()
        }
        open_files = {f"{shard.name}.{suffix}" for shard in state.open_shards.values() for suffix in SUFFIXES}
        for path in self.folder.iterdir():
            name = path.name.removesuffix(".tmp")
            is_later = _OWN_FILE.fullmatch(name) is not None and name not in open_files | set(state.files)
            if is_later or name in (REPORT_NAME, MANIFEST_NAME):
                path.unlink()
        self._shards = {split: list(state.shards.get(split, ())) for split in SPLITS}
        self._files = {
            name: entry for name, entry in state.files.items() if not name.startswith(f"{TOKENIZER_FOLDER}/")
        }
        for split, shard in state.open_shards.items():
            self._open[split] = ShardWriter.resume(
                self.folder, shard, self.layout.token_dtype, digests[split]
            )

    def _check_state(self, state: WriterState) -> None:
        """Everything that could be wrong but the content of open shards, before anything is cut or removed."""
        for name in ("vocab_size", "block_tokens", "shard_tokens"):
            before, now = getattr(state, name), getattr(self.layout, name)
            if before != now:
                raise DataError(
                    f"The interrupted build of {self.path} has {name} = {before}, this one {now}: "
                    "build the store again without --resume."
                )
        if not self.folder.is_dir():
            raise DataError(
                f"{self.folder}, the folder of the interrupted build, is gone: "
                "build the store again without --resume."
            )
        tokenizer_files = {name for name in state.files if name.startswith(f"{TOKENIZER_FOLDER}/")}
        if self._sealed_tokenizer() != {name: state.files[name] for name in tokenizer_files}:
            raise DataError(
                f"{self.tokenizer_path} is not the tokenizer of the interrupted build: "
                "build the store again without --resume."
            )
        for name in sorted(state.files.keys() - tokenizer_files):
            check_at_least(self.folder / name, state.files[name].bytes)


def report_bytes(report: dict[str, Any]) -> bytes:
    """The content of report.json: equal reports give equal bytes."""
    return (json.dumps(report, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _runs(numbers: set[int]) -> tuple[tuple[int, int], ...]:
    """(first, count) of each run of consecutive numbers."""
    firsts = sorted(number for number in numbers if number - 1 not in numbers)
    lasts = sorted(number for number in numbers if number + 1 not in numbers)
    return tuple((first, last - first + 1) for first, last in zip(firsts, lasts, strict=True))
