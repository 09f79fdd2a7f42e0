"""The token store: tokenized sentences on disk, written once, mapped by every run.

The way of the data:

1. `data_prep` hands documents (token ids, sentence and document lengths, word starts) to a `StoreWriter`;
2. its `ShardWriter`s cut shards and blocks at document boundaries and hash what they write (`writer`);
3. `StoreWriter.finish` writes the `Manifest`, which names every file with its size and checksum, and only
   then gives the folder its name (`manifest`);
4. `TokenStore.open` checks the manifest and the files' sizes; `StoreSplit.block` maps one block of whole
   documents (`reader`);
5. `verify_store` recomputes checksums and sums (`verify`).

The folder:

    manifest.json          written last: a folder without it is not a store
    report.json            what was kept and dropped and why, options, input; not part of the fingerprint
    tokenizer/             a Hugging Face tokenizer folder
    train-00000.tokens     uint16 or uint32 token ids, sentences one after another, no special tokens
    train-00000.sentences  uint32, tokens of each sentence (never 0)
    train-00000.documents  uint32, sentences of each document (never 0)
    train-00000.words      one bit per token, least significant first: 1 = this token begins a word
    train-00000.blocks     uint64 [blocks + 1, 3], start (token, sentence, document) of each block, totals
    heldout-00000.*        the same for the held-out split

All numbers are little-endian. Nothing here imports torch or transformers.
"""

from pretrain.data.store.files import write_atomically
from pretrain.data.store.manifest import (
    FORMAT,
    MANIFEST_NAME,
    REPORT_NAME,
    SPLITS,
    TOKENIZER_FOLDER,
    VERSION,
    FileEntry,
    Manifest,
    ShardEntry,
    SpecialIds,
    SplitEntry,
)
from pretrain.data.store.parts import merge_parts
from pretrain.data.store.reader import Block, StoreSplit, TokenStore
from pretrain.data.store.shard_writer import Documents
from pretrain.data.store.verify import OnProgress, verified_bytes, verify_store
from pretrain.data.store.writer import StoreLayout, StoreWriter, WriterState, partial_path

__all__ = [
    "FORMAT",
    "MANIFEST_NAME",
    "REPORT_NAME",
    "SPLITS",
    "TOKENIZER_FOLDER",
    "VERSION",
    "Block",
    "Documents",
    "FileEntry",
    "Manifest",
    "OnProgress",
    "ShardEntry",
    "SpecialIds",
    "SplitEntry",
    "StoreLayout",
    "StoreSplit",
    "StoreWriter",
    "TokenStore",
    "WriterState",
    "merge_parts",
    "partial_path",
    "verified_bytes",
    "verify_store",
    "write_atomically",
]
