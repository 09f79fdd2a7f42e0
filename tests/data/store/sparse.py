"""Stores of a trillion tokens on a laptop: sparse files of zeros, real lengths, block tables and manifest.

All shards are alike: sentences of 24 tokens, documents of 16 sentences, blocks that end with the first document
that fills them. What is real lies on the disk once and has a name in every shard (hard links); tokens and words
are holes, so that every token is 0, which is an ordinary id here. Checksums are made up: `verify` would say so.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pretrain.data.store import FileEntry, Manifest, ShardEntry, SpecialIds, SplitEntry

ROOT = Path(__file__).resolve().parents[3]
SPECIAL = SpecialIds(pad=1, unk=2, cls=3, sep=4, mask=5)
VOCAB_SIZE = 30_000
SENTENCE_TOKENS = 24
DOCUMENT_SENTENCES = 16
DOCUMENT_TOKENS = SENTENCE_TOKENS * DOCUMENT_SENTENCES
BLOCK_TOKENS = 1 << 20
BLOCK_DOCUMENTS = -(-BLOCK_TOKENS // DOCUMENT_TOKENS)
SHARD_TOKENS = 256_000_000

_SOME_SHA256 = "0" * 64
_LARGEST_LINK_COUNT = 30_000  # file systems allow 32,000 or more

# A process says its own highest memory, and has it from its parent: so a small parent in between.
_THROUGH_A_SMALL_PROCESS = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"
_OPEN_AND_READ = """
import json, resource, sys, time
import numpy as np
from pretrain.data.store import TokenStore
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begin = time.perf_counter()
store = TokenStore.open(sys.argv[1])
split = store.split("train")
opened = time.perf_counter()
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
chosen = np.random.default_rng(0).integers(0, split.num_blocks, 200).tolist()
begin_blocks = time.perf_counter()
tokens = sum(len(split.block(index).tokens) for index in chosen)
read = time.perf_counter()
json.dump([split.num_tokens, opened - begin, (read - begin_blocks) / 200, before * 1024, after * 1024], sys.stdout)
"""


@dataclass(frozen=True)
class OpenCost:
    """What it costs a fresh process to open a store, and to read a random block of it with its tokens.

    `bytes_before`: highest memory of the process with everything imported; `bytes_after`: once it is open.
    """

    num_tokens: int
    open_seconds: float
    block_seconds: float
    bytes_before: int
    bytes_after: int


def write_sparse_store(path: Path, num_tokens: int) -> Manifest:
    """A store of at least `num_tokens` training tokens in shards of some 257 million, and one shard held out."""
    path.mkdir(parents=True)
    blocks = -(-SHARD_TOKENS // (BLOCK_DOCUMENTS * DOCUMENT_TOKENS))
    num_shards = -(-num_tokens // (blocks * BLOCK_DOCUMENTS * DOCUMENT_TOKENS))
    train = tuple(_shard(f"train-{index:05d}", blocks) for index in range(num_shards))
    heldout = (_shard("heldout-00000", 2),)
    for shards in (train, heldout):
        _write_shards(path, shards)
    small = {"tokenizer/tokenizer.json": "{}", "report.json": "{}\n"}
    (path / "tokenizer").mkdir()
    for name, content in small.items():
        (path / name).write_text(content)
    sizes = {name: len(content) for name, content in small.items()}
    for shard in (*train, *heldout):
        sizes |= shard.expected_bytes(np.dtype("<u2"))
    manifest = Manifest(
        token_dtype="uint16",
        vocab_size=VOCAB_SIZE,
        special_ids=SPECIAL,
        all_special_ids=(1, 2, 3, 4, 5),
        tokenizer_sha256=_SOME_SHA256,
        block_tokens=BLOCK_TOKENS,
        splits={"train": SplitEntry.of(train), "heldout": SplitEntry.of(heldout)},
        files={name: FileEntry(bytes=size, sha256=_SOME_SHA256) for name, size in sizes.items()},
    )
    manifest.write(path / "manifest.json")
    return manifest


def measure_open(path: Path) -> OpenCost:
    """Opens the store in a process of its own."""
    inner = [sys.executable, "-c", _OPEN_AND_READ, str(path)]
    command = [sys.executable, "-S", "-c", _THROUGH_A_SMALL_PROCESS, *inner]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return OpenCost(*json.loads(done.stdout))


def _shard(name: str, blocks: int) -> ShardEntry:
    documents = blocks * BLOCK_DOCUMENTS
    sentences = documents * DOCUMENT_SENTENCES
    return ShardEntry(
        name=name, tokens=sentences * SENTENCE_TOKENS, sentences=sentences, documents=documents, blocks=blocks
    )


def _write_shards(folder: Path, shards: tuple[ShardEntry, ...]) -> None:
    """Shards of equal counts: lengths and blocks of the first are those of all."""
    first = shards[0]
    per_block = np.array(
        [BLOCK_DOCUMENTS * DOCUMENT_TOKENS, BLOCK_DOCUMENTS * DOCUMENT_SENTENCES, BLOCK_DOCUMENTS]
    )
    real = {
        "sentences": np.full(first.sentences, SENTENCE_TOKENS, dtype="<u4"),
        "documents": np.full(first.documents, DOCUMENT_SENTENCES, dtype="<u4"),
        "blocks": np.outer(np.arange(first.blocks + 1), per_block).astype("<u8"),
    }
    for number, shard in enumerate(shards):
        for suffix, array in real.items():
            path = folder / f"{shard.name}.{suffix}"
            original = folder / f"{shards[number - number % _LARGEST_LINK_COUNT].name}.{suffix}"
            if path == original:
                array.tofile(path)
            else:
                os.link(original, path)
        for suffix, num_bytes in (("tokens", 2 * shard.tokens), ("words", -(-shard.tokens // 8))):
            path = folder / f"{shard.name}.{suffix}"
            path.touch()
            os.truncate(path, num_bytes)
