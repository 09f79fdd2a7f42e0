"""The text of a window and the samples planned over it, both as spans of the window's tokens.

A window is a few blocks of whole documents. Its tokens count as if the blocks lay one after another; a sample
is one or two contiguous spans of them, so that planning reads lengths only and never a token.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

NO_LABEL = -100


class BlockLengths(Protocol):
    """What planning reads of a block of the token store."""

    @property
    def sentence_lengths(self) -> np.ndarray: ...  # tokens of each sentence, never 0
    @property
    def document_lengths(self) -> np.ndarray: ...  # sentences of each document, never 0


@dataclass(frozen=True)
class WindowText:
    """Where sentences and documents begin.

    `offsets` [sentences + 1] int64: first token of each sentence, then the number of tokens;
    `document_first` [documents + 1] int64: first sentence of each document, then the number of sentences;
    `num_cut`: sentences that were too long and now count as several.
    """

    offsets: np.ndarray
    document_first: np.ndarray
    num_cut: int

    @classmethod
    def from_blocks(cls, blocks: Iterable[BlockLengths], max_sentence_tokens: int | None = None) -> Self:
        """A sentence over `max_sentence_tokens`, if given, is cut into even pieces of at most half of that,
        so that two neighbouring pieces fit a sample together."""
        pairs = [(block.sentence_lengths, block.document_lengths) for block in blocks]
        lengths, documents = (np.concatenate(column).astype(np.int64) for column in zip(*pairs, strict=True))
        document_first = starts_of(documents)
        num_cut = 0
        if max_sentence_tokens is not None and lengths.max() > max_sentence_tokens:
            too_long = lengths > max_sentence_tokens
            num_cut = int(too_long.sum())
            pieces = np.where(too_long, -(-lengths // (max_sentence_tokens // 2)), 1)
            document_first = starts_of(pieces)[document_first]
            base, remainder = np.divmod(lengths, pieces)
            number_in_sentence = ranges(np.zeros_like(pieces), pieces)
            lengths = np.repeat(base, pieces) + (number_in_sentence < np.repeat(remainder, pieces))
        return cls(starts_of(lengths), document_first, num_cut)

    @property
    def num_documents(self) -> int:
        return len(self.document_first) - 1

    @property
    def num_sentences(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_tokens(self) -> int:
        return int(self.offsets[-1])

    def document_of(self, sentences: np.ndarray) -> np.ndarray:
        """The document that each sentence belongs to."""
        return np.searchsorted(self.document_first, sentences, side="right") - 1


@dataclass(frozen=True)
class SamplePlan:
    """The samples of a window, in the order of its documents: one entry per sample, all int64.

    A and B begin at `a_start` and `b_start` among the window's tokens. `nsp_label`: 0 where B is what follows
    A, 1 where it is a random segment or, for sentence order, what comes before A (as in Hugging Face BERT and
    ALBERT); -100, with `b_length` 0, without pairs.

    Of the `num_window_tokens`, all that are shown but for a random B are shown once; `num_truncated_tokens` were
    cut off to make pairs fit, `num_dropped_tokens` lie in sentences without a partner. `num_cut_sentences`
    were too long and came in pieces; `num_lone_pairs` are random because A was all that was left.
    """

    a_start: np.ndarray
    a_length: np.ndarray
    b_start: np.ndarray
    b_length: np.ndarray
    nsp_label: np.ndarray
    num_window_tokens: int
    num_truncated_tokens: int = 0
    num_dropped_sentences: int = 0
    num_dropped_tokens: int = 0
    num_cut_sentences: int = 0
    num_lone_pairs: int = 0

    @property
    def num_samples(self) -> int:
        return len(self.a_start)

    @property
    def num_actual_pairs(self) -> int:
        """Pairs of which B is what follows A."""
        return int((self.nsp_label == 0).sum())

    @property
    def text_lengths(self) -> np.ndarray:
        """Tokens of each sample without the special ones."""
        return self.a_length + self.b_length

    @property
    def spans(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """A's start and length, B's start and length."""
        return self.a_start, self.a_length, self.b_start, self.b_length


def starts_of(lengths: np.ndarray) -> np.ndarray:
    """[n + 1] int64: where each of n consecutive spans begins, then where the last one ends."""
    starts = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """range(start, start + length) of each pair, one after another, int64."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - lengths), lengths)
