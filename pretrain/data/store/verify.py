"""Recomputing what a manifest promises: checksums, and that lengths, tokens, blocks and words fit."""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np

from pretrain.data.store.files import chunks_of, file_problems
from pretrain.data.store.manifest import (
    BLOCK_COLUMNS,
    BLOCK_DTYPE,
    LENGTH_DTYPE,
    MANIFEST_NAME,
    REPORT_NAME,
    TOKENIZER_FOLDER,
    WORD_DTYPE,
    FileEntry,
    Manifest,
    ShardEntry,
)
from pretrain.errors import DataError
from pretrain.files import read_items

_CHUNK_TOKENS = 1 << 22

OnProgress = Callable[[int], None]


def verify_store(
    path: str | Path, *, full: bool, workers: int = 1, on_progress: OnProgress | None = None
) -> list[str]:
    """Problems found, each a sentence naming the file; an empty list means the store is whole.

    Quick: manifest, kinds and sizes of all files, checksums of report and tokenizer, block tables. Full: every
    checksum, length and id. `on_progress` is told bytes as they are done; they add up to `verified_bytes`. A
    missing folder is a UsageError.
    """
    folder = Path(path)
    try:
        manifest = Manifest.from_file(folder / MANIFEST_NAME)
    except DataError as error:
        return [str(error)]
    problems = list(file_problems(folder, manifest.files))
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
    return list(dict.fromkeys(problems))  # a file that cannot be read is met more than once


def verified_bytes(manifest: Manifest, *, full: bool) -> int:
    """Total of what `on_progress` will be told."""
    return sum(entry.bytes for name, entry in manifest.files.items() if full or _is_small(name))


def _is_small(name: str) -> bool:
    """Of a store in parts, the parts' own manifests, reports and tokenizers, too."""
    path = PurePosixPath(name)
    return (
        path.name in (MANIFEST_NAME, REPORT_NAME)
        or path.suffix == ".blocks"
        or TOKENIZER_FOLDER in path.parts[:-1]
    )


def _checksum_problem(folder: Path, name: str, entry: FileEntry, report: OnProgress) -> str | None:
    digest = hashlib.sha256()
    try:
        for chunk in chunks_of(folder / name):
            digest.update(chunk)
            report(len(chunk))
    except OSError as error:
        return f"{folder / name} cannot be read: {error.strerror or error}."
    if digest.hexdigest() != entry.sha256:
        return f"{folder / name} has changed: its sha256 is not the manifest's."
    return None


def _shard_problems(folder: Path, shard: ShardEntry, manifest: Manifest, full: bool) -> Iterator[str]:
    """What does not fit, though its checksum may: a writer with a bug seals its own nonsense."""
    stem = f"{folder / shard.name}"
    try:
        blocks = read_items(f"{stem}.blocks", BLOCK_DTYPE, 0, (shard.blocks + 1) * BLOCK_COLUMNS)
        blocks = blocks.reshape(-1, BLOCK_COLUMNS).astype(np.int64)
        totals = [shard.tokens, shard.sentences, shard.documents]
        if blocks[0].any() or blocks[-1].tolist() != totals or (blocks[1:] <= blocks[:-1]).any():
            yield f"{stem}.blocks does not rise from zero to the shard's totals."
        elif full:
            yield from _length_problems(stem, shard, blocks)
            yield from _token_problems(stem, shard, manifest)
    except DataError as error:
        yield str(error)


def _length_problems(stem: str, shard: ShardEntry, blocks: np.ndarray) -> Iterator[str]:
    """`blocks` [blocks + 1, 3] int64: the block table."""
    sentences = read_items(f"{stem}.sentences", LENGTH_DTYPE, 0, shard.sentences)
    documents = read_items(f"{stem}.documents", LENGTH_DTYPE, 0, shard.documents)
    promised = ((sentences, "sentences", shard.tokens), (documents, "documents", shard.sentences))
    for lengths, name, total in promised:
        if lengths.min() < 1 or int(lengths.sum(dtype=np.int64)) != total:
            yield f"{stem}.{name} has a zero or does not add up to {total}."
            return
    token, sentence, document = blocks.T
    if not np.array_equal(np.add.reduceat(documents, document[:-1], dtype=np.int64), np.diff(sentence)):
        yield f"{stem}.blocks does not fall on document boundaries."
    if not np.array_equal(np.add.reduceat(sentences, sentence[:-1], dtype=np.int64), np.diff(token)):
        yield f"{stem}.blocks does not fall on sentence boundaries."


def _token_problems(stem: str, shard: ShardEntry, manifest: Manifest) -> Iterator[str]:
    forbidden = np.zeros(manifest.vocab_size, dtype=np.bool_)
    forbidden[list(set(manifest.all_special_ids) - {manifest.special_ids.unk})] = True
    for start in range(0, shard.tokens, _CHUNK_TOKENS):
        count = min(_CHUNK_TOKENS, shard.tokens - start)
        chunk = read_items(f"{stem}.tokens", manifest.dtype, start, count)
        if int(chunk.max()) >= manifest.vocab_size or forbidden[chunk].any():
            yield f"{stem}.tokens has an id that is special or beyond the vocabulary, after token {start}."
            return
    used_bits = shard.tokens % 8
    last_byte = read_items(f"{stem}.words", WORD_DTYPE, (shard.tokens - 1) // 8, 1)
    if used_bits and int(last_byte[0]) >> used_bits:
        yield f"{stem}.words has bits set after its last token."
