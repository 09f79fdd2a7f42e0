"""Lengths, unknown tokens and hashes of the documents over blocks of one split, read one after another."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep.inspection.distribution import Distribution
from data_prep.inspection.duplicates import Seen
from data_prep.token_hash import hash_documents
from pretrain.data.store import Block, StoreSplit

MAX_BLOCKS = 32


def spread(num_blocks: int, limit: int) -> list[int]:
    """At most `limit` block numbers at equal distances, from the first to the last."""
    places = np.linspace(0, num_blocks - 1, min(limit, num_blocks))
    return np.unique(places.round().astype(int)).tolist()


@dataclass
class Scan:
    """The running sums over the blocks read so far."""

    seen: Seen
    sentence_tokens: Distribution
    document_tokens: Distribution
    document_sentences: Distribution
    num_blocks: int = 0
    num_tokens: int = 0
    num_unknown: int = 0
    num_words: int = 0

    @classmethod
    def nothing(cls) -> "Scan":
        return cls(Seen.nothing(), Distribution.empty(), Distribution.empty(), Distribution.empty())

    def add(self, block: Block, unk_id: int) -> None:
        lengths = document_tokens(block)
        self.seen = self.seen.add(hash_documents(block.tokens, lengths))
        self.sentence_tokens = self.sentence_tokens.plus(Distribution.of(block.sentence_lengths))
        self.document_tokens = self.document_tokens.plus(Distribution.of(lengths))
        self.document_sentences = self.document_sentences.plus(Distribution.of(block.document_lengths))
        self.num_blocks += 1
        self.num_tokens += len(block.tokens)
        self.num_unknown += int((block.tokens == unk_id).sum())
        self.num_words += int(block.word_starts().sum())

    def figures(self, split: StoreSplit) -> dict[str, Any]:
        """Plain values; `blocks_read` says how much of the split they come from."""
        return {
            "blocks_read": self.num_blocks,
            "documents_read": self.document_tokens.total,
            "tokens_read": self.num_tokens,
            "tokens_per_sentence": self.sentence_tokens.figures(),
            "tokens_per_document": self.document_tokens.figures(),
            "sentences_per_document": self.document_sentences.figures(),
            "unknown_share": self.num_unknown / self.num_tokens,
            "tokens_per_word": self.num_tokens / max(1, self.num_words),
            "repeated_documents": {
                "share": self.seen.repeated_share,
                "one_hash_in": self.seen.one_in,
                "extent": self.extent(split.num_blocks),
            },
        }

    def extent(self, num_blocks: int) -> str:
        """What a share of repeated documents is: "exact", an "estimate" for the whole split, or a "lower bound",
        because copies lie in blocks that were not read."""
        if self.num_blocks < num_blocks:
            return "lower bound"
        return "exact" if self.seen.one_in == 1 else "estimate"


def scan_split(split: StoreSplit, unk_id: int, *, full: bool, advance: Callable[[int], None]) -> Scan:
    """The blocks of a split, all or `MAX_BLOCKS` of them; `advance` is told the bytes of tokens of each."""
    scan = Scan.nothing()
    for index in spread(split.num_blocks, split.num_blocks if full else MAX_BLOCKS):
        block = split.block(index)
        scan.add(block, unk_id)
        advance(block.tokens.nbytes)
    return scan


def document_tokens(block: Block) -> np.ndarray:
    """Tokens of each document, int64."""
    first = np.cumsum(block.document_lengths, dtype=np.int64) - block.document_lengths
    return np.add.reduceat(block.sentence_lengths.astype(np.int64), first)
