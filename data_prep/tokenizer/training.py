"""A new tokenizer of one of four kinds, learned from a sample of the corpus.

The same texts give the same bytes of tokenizer.json, in any process and on any number of cores.
"""

from collections.abc import Sequence
from dataclasses import replace

import transformers

from data_prep.options import TokenizerKind
from data_prep.tokenizer import bpe, sentencepiece_training, wordpiece
from data_prep.tokenizer.roles import StoreTokenizer, describe
from pretrain.errors import UsageError

_SOURCE = "the trained tokenizer"
_LARGEST_VOCABULARY = 10_000_000
_SMALLEST_OF_CHARACTERS = 32


def train_tokenizer(
    kind: TokenizerKind, texts: Sequence[str], vocab_size: int, *, lowercase: bool
) -> StoreTokenizer:
    """A tokenizer of at most `vocab_size` entries; a small corpus may give fewer.

    `texts` should be sentences, as they will be stored: byte-level BPE sees whether a word has a space before
    it. `lowercase` is what `TokenizerOptions` decides: the default ignores case for wordpiece alone.

    Raises:
        UsageError: the special tokens and single characters (for bpe: bytes) leave no room in `vocab_size`.
        DataError: the texts have no word.
    """
    check_vocab_size(kind, vocab_size)
    tokenizer: transformers.PreTrainedTokenizerFast
    if kind == "wordpiece":
        tokenizer = wordpiece.train(texts, vocab_size, lowercase=lowercase)
    elif kind == "bpe":
        tokenizer = bpe.train(texts, vocab_size, lowercase=lowercase)
    else:
        model_type: sentencepiece_training.ModelType = "unigram" if kind == "unigram" else "bpe"
        tokenizer = sentencepiece_training.train(texts, vocab_size, model_type, lowercase=lowercase)
    return replace(describe(tokenizer, _SOURCE), trained_on_characters=sum(map(len, texts)))


def train_wordpiece(texts: Sequence[str], vocab_size: int, *, lowercase: bool) -> StoreTokenizer:
    """`train_tokenizer` of the kind "wordpiece"."""
    return train_tokenizer("wordpiece", texts, vocab_size, lowercase=lowercase)


def check_vocab_size(kind: TokenizerKind, vocab_size: int) -> None:
    """Raises UsageError for a `--vocab-size` that leaves no room for a single word, or that no text can fill."""
    if vocab_size > _LARGEST_VOCABULARY:
        raise UsageError(
            f"--vocab-size {vocab_size:,} is more than any text needs; use {_LARGEST_VOCABULARY:,} or less."
        )
    smallest = bpe.SMALLEST_VOCABULARY if kind == "bpe" else _SMALLEST_OF_CHARACTERS
    if vocab_size < smallest:
        what = "256 bytes" if kind == "bpe" else "single characters"
        raise UsageError(
            f"--vocab-size {vocab_size} is too small for a {kind} vocabulary: five special tokens and the "
            f"{what} come first; use {smallest} or more."
        )
