"""A token store in memory: the interface that sampling reads, over made-up documents."""

from dataclasses import dataclass

import numpy as np

SPECIAL_IDS = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
ALL_SPECIAL_IDS = [0, 1, 2, 3, 4]
VOCAB_SIZE = 1000

Documents = list[list[int]]  # for each document the tokens of its sentences


@dataclass(frozen=True)
class FakeBlock:
    tokens: np.ndarray
    sentence_lengths: np.ndarray
    document_lengths: np.ndarray
    begins_word: np.ndarray

    def word_starts(self) -> np.ndarray:
        return self.begins_word


class FakeSplit:
    """Documents in blocks that end once they hold `block_tokens`."""

    name = "train"

    def __init__(self, documents: Documents, block_tokens: int = 1000, seed: int = 0) -> None:
        self._blocks: list[FakeBlock] = []
        group: Documents = []
        for document in documents:
            group.append(document)
            if sum(map(sum, group)) >= block_tokens:
                self._blocks.append(fake_block(group, seed + len(self._blocks)))
                group = []
        if group:
            self._blocks.append(fake_block(group, seed + len(self._blocks)))
        self.num_documents = len(documents)
        self.num_sentences = sum(map(len, documents))
        self.num_tokens = sum(map(sum, documents))

    @property
    def num_blocks(self) -> int:
        return len(self._blocks)

    def block(self, index: int) -> FakeBlock:
        return self._blocks[index]


def fake_block(documents: Documents, seed: int = 0) -> FakeBlock:
    """Random tokens for the given sentence lengths; seven of ten begin a word."""
    lengths = np.array([length for document in documents for length in document], dtype=np.uint32)
    sentences = np.array([len(document) for document in documents], dtype=np.uint32)
    draw = np.random.default_rng(seed)
    tokens = draw.integers(len(ALL_SPECIAL_IDS), VOCAB_SIZE, int(lengths.sum()))
    return FakeBlock(tokens.astype(np.uint16), lengths, sentences, draw.random(len(tokens)) < 0.7)


def random_documents(
    num_documents: int, seed: int = 0, sentences: float = 12.0, tokens: float = 22.0
) -> Documents:
    """Geometric numbers of sentences, sentences of geometric length: means as given, nothing empty."""
    draw = np.random.default_rng(seed)
    counts = draw.geometric(1 / sentences, num_documents)
    return [draw.geometric(1 / tokens, count).tolist() for count in counts]


def demo_like_documents(num_documents: int, seed: int = 0) -> Documents:
    """Sentences and documents as long as in the demo's text: log-normal, of many lengths, some very long."""
    draw = np.random.default_rng(seed)
    counts = np.ceil(draw.lognormal(3.09, 1.33, num_documents)).astype(np.int64)
    return [np.ceil(draw.lognormal(2.41, 1.05, count)).astype(np.int64).tolist() for count in counts]
