"""What a token store holds, for a reader's eyes: counts, lengths, unknown share and a few decoded sentences.

Lengths and shares are taken from a bounded number of blocks spread over the store, whatever its size.
"""

from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from pretrain.data.store import SPLITS, Block, StoreSplit, TokenStore

MAX_BLOCKS = 32
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


@dataclass(frozen=True)
class Lengths:
    """Lengths over the blocks looked at: int64 arrays."""

    sentence_tokens: np.ndarray
    document_tokens: np.ndarray
    document_sentences: np.ndarray
    num_tokens: int
    num_unknown: int
    num_words: int


def measure(split: StoreSplit, unk_id: int) -> Lengths:
    """Lengths over at most `MAX_BLOCKS` blocks at equal distances."""
    indices = np.unique(np.linspace(0, split.num_blocks - 1, MAX_BLOCKS).astype(int))
    blocks = [split.block(int(index)) for index in indices]
    return Lengths(
        sentence_tokens=np.concatenate([block.sentence_lengths for block in blocks]).astype(np.int64),
        document_tokens=np.concatenate([_document_tokens(block) for block in blocks]),
        document_sentences=np.concatenate([block.document_lengths for block in blocks]).astype(np.int64),
        num_tokens=sum(len(block.tokens) for block in blocks),
        num_unknown=sum(int((block.tokens == unk_id).sum()) for block in blocks),
        num_words=sum(int(block.word_starts().sum()) for block in blocks),
    )


def first_sentences(split: StoreSplit, tokenizer: Tokenizer, count: int) -> list[str]:
    """The first sentences of the split's first block, decoded."""
    block = split.block(0)
    ends = np.cumsum(block.sentence_lengths[:count], dtype=np.int64)
    sentences = np.split(block.tokens[: ends[-1]], ends[:-1])
    return [tokenizer.decode(sentence.tolist(), skip_special_tokens=False) for sentence in sentences]


def print_store(store: TokenStore, console: Console, *, num_sentences: int) -> None:
    """All of it, as tables and lines."""
    manifest = store.manifest
    console.print(f"token store {store.path}", highlight=False, soft_wrap=True)
    console.print(f"fingerprint {store.fingerprint}", highlight=False, soft_wrap=True)
    special = ", ".join(f"{role} {token_id}" for role, token_id in store.special_ids.items())
    console.print(
        f"vocabulary {store.vocab_size:,} ({manifest.token_dtype}); {special}; "
        f"blocks of {manifest.block_tokens:,} tokens",
        highlight=False,
        soft_wrap=True,
    )
    counts = Table("split", "documents", "sentences", "tokens", "blocks", "shards")
    for name in SPLITS:
        entry = manifest.splits[name]
        numbers = (entry.documents, entry.sentences, entry.tokens, entry.blocks, len(entry.shards))
        counts.add_row(name, *(f"{number:,}" for number in numbers))
    console.print(counts)
    tokenizer = Tokenizer.from_file(str(store.tokenizer_path / "tokenizer.json"))
    for name in SPLITS:
        split = store.split(name)
        if split.num_blocks:
            _print_split(split, store.special_ids["unk"], tokenizer, console, num_sentences)


def _print_split(
    split: StoreSplit, unk_id: int, tokenizer: Tokenizer, console: Console, num_sentences: int
) -> None:
    lengths = measure(split, unk_id)
    table = Table(f"{split.name}: lengths", "least", "5%", "median", "95%", "most", "mean")
    for name, values in (
        ("tokens per sentence", lengths.sentence_tokens),
        ("tokens per document", lengths.document_tokens),
        ("sentences per document", lengths.document_sentences),
    ):
        quantiles = np.quantile(values, QUANTILES, method="nearest")
        table.add_row(name, *(f"{int(value):,}" for value in quantiles), f"{values.mean():,.1f}")
    console.print(table)
    console.print(
        f"{split.name}: {lengths.num_unknown / lengths.num_tokens:.4%} unknown tokens, "
        f"{lengths.num_tokens / lengths.num_words:.2f} tokens per word",
        highlight=False,
        soft_wrap=True,
    )
    for sentence in first_sentences(split, tokenizer, num_sentences):
        console.print(f"  {sentence}", highlight=False, markup=False, soft_wrap=True)


def _document_tokens(block: Block) -> np.ndarray:
    starts = np.concatenate([[0], np.cumsum(block.document_lengths, dtype=np.int64)[:-1]])
    return np.add.reduceat(block.sentence_lengths.astype(np.int64), starts)
