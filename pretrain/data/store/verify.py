"""Recomputing what a manifest promises: checksums, and that lengths, tokens, blocks and words fit."""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
    ShardEntry,
)
from pretrain.data.store.reader import size_problem
from pretrain.errors import DataError

_CHUNK_BYTES = 1 << 24

OnProgress = Callable[[int], None]


def verify_store(
    path: str | Path, *, full: bool, workers: int = 1, on_progress: OnProgress | None = None
) -> list[str]:
    """Problems found, each a sentence naming the file; an empty list means the store is whole.

    Quick: manifest, sizes, the tokenizer's checksums, block tables. Full: every checksum, length and id.
    `on_progress` is told bytes as they are done; they add up to `verified_bytes`. A missing folder is a
    UsageError.
    """
    folder = Path(path)
    try:
        manifest = Manifest.from_file(folder / MANIFEST_NAME)
    except DataError as error:
        return [str(error)]
    problems = [
        problem
        for name, entry in manifest.files.items()
        if (problem := size_problem(folder, name, entry)) is not None
    ]
    if problems:
        return problems
    report = on_progress or (lambda _: None)
    chosen = {name: entry for name, entry in manifest.files.items() if full or _is_small(name)}
    # Hashing and numpy's reductions release the interpreter lock, so threads are enough.
    with ThreadPoolExecutor(max(1, workers)) as pool:
        hashed = list(pool.map(lambda name: _checksum_problem(folder, name, chosen[name], report), chosen))
        problems = [problem for problem in hashed if problem is not None]
        if manifest.files[f"{TOKENIZER_FOLDER}/tokenizer.json"].sha256 != manifest.tokenizer_sha256:
            problems.append(f"{folder / MANIFEST_NAME}: tokenizer_sha256 is not that of tokenizer.json.")
        shards = [shard for _, shard in manifest.shards()]
        for found in pool.map(lambda shard: list(_shard_problems(folder, shard, manifest, full)), shards):
            problems.extend(found)
    return problems


def verified_bytes(manifest: Manifest, *, full: bool) -> int:
    """Total of what `on_progress` will be told."""
    return sum(entry.bytes for name, entry in manifest.files.items() if full or _is_small(name))


def _is_small(name: str) -> bool:
    return name.startswith(f"{TOKENIZER_FOLDER}/") or name.endswith(".blocks")


def _checksum_problem(folder: Path, name: str, entry: FileEntry, report: OnProgress) -> str | None:
    digest = hashlib.sha256()
    try:
        with (folder / name).open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                report(len(chunk))
    except OSError as error:
        return f"{folder / name} cannot be read: {error.strerror or error}."
    if digest.hexdigest() != entry.sha256:
        return f"{folder / name} has changed: its sha256 is not the manifest's."
    return None


def _shard_problems(folder: Path, shard: ShardEntry, manifest: Manifest, full: bool) -> Iterator[str]:
    stem = folder / shard.name
    blocks = np.fromfile(f"{stem}.blocks", dtype=BLOCK_DTYPE).reshape(-1, BLOCK_COLUMNS).astype(np.int64)
    totals = [shard.tokens, shard.sentences, shard.documents]
    if blocks[0].any() or blocks[-1].tolist() != totals or (np.diff(blocks, axis=0) <= 0).any():
        yield f"{stem}.blocks does not rise from zero to the shard's totals."
        return
    if not full:
        return
    sentences = _mapped(f"{stem}.sentences", LENGTH_DTYPE)
    documents = _mapped(f"{stem}.documents", LENGTH_DTYPE)
    promised = ((sentences, "sentences", shard.tokens), (documents, "documents", shard.sentences))
    for lengths, name, total in promised:
        if lengths.min() < 1 or int(lengths.sum(dtype=np.int64)) != total:
            yield f"{stem}.{name} has a zero or does not add up to {total}."
            return
    document_starts, sentence_starts = blocks[:-1, 2], blocks[:-1, 1]
    if not np.array_equal(np.add.reduceat(documents, document_starts, dtype=np.int64), np.diff(blocks[:, 1])):
        yield f"{stem}.blocks does not fall on document boundaries."
    if not np.array_equal(np.add.reduceat(sentences, sentence_starts, dtype=np.int64), np.diff(blocks[:, 0])):
        yield f"{stem}.blocks does not fall on sentence boundaries."
    yield from _token_problems(stem, shard, manifest)


def _token_problems(stem: Path, shard: ShardEntry, manifest: Manifest) -> Iterator[str]:
    forbidden = np.zeros(manifest.vocab_size, dtype=np.bool_)
    forbidden[list(set(manifest.all_special_ids) - {manifest.special_ids.unk})] = True
    tokens = _mapped(f"{stem}.tokens", manifest.dtype)
    step = _CHUNK_BYTES // manifest.dtype.itemsize
    for start in range(0, len(tokens), step):
        chunk = tokens[start : start + step]
        if int(chunk.max()) >= manifest.vocab_size or forbidden[chunk].any():
            yield f"{stem}.tokens has an id that is special or beyond the vocabulary, after token {start}."
            return
    words = _mapped(f"{stem}.words", WORD_DTYPE)
    used_bits = shard.tokens % 8
    if used_bits and int(words[-1]) >> used_bits:
        yield f"{stem}.words has bits set after its last token."


def _mapped(path: str, dtype: np.dtype) -> np.ndarray:
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))
