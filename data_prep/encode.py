"""A batch of texts to token ids: the work of a worker process.

1. each text is split into sentences (`sentences`);
2. the sentences of the batch go through the tokenizer in slices, so that its own memory stays small;
3. a word starts where the tokenizer's word number changes, and at the start of each sentence;
4. sentences without tokens go, then documents without sentences;
5. the documents are hashed, for the held-out split and nothing else.

No special token is added, and the name of one in the text ("[MASK]") is ordinary text.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from data_prep.heldout import HashedDocuments, document_hash
from data_prep.options import SentenceMethod
from data_prep.sentences import split_sentences
from pretrain.data.store import Documents

# A tokenizer takes some 200 bytes of memory for each character of a call.
_SLICE_CHARACTERS = 1 << 17


@dataclass(frozen=True)
class EncoderSettings:
    """What a worker needs to know; small, because it travels with every batch.

    `forbidden` are the special ids other than `unk_id`. A vocabulary may hold "<s>" as an ordinary piece of
    text as well, so that the text can still produce it; such ids become `unk_id`.
    """

    tokenizer_file: Path
    vocab_size: int
    unk_id: int
    forbidden: tuple[int, ...]
    token_dtype: str
    sentences: SentenceMethod
    language: str


@dataclass(frozen=True)
class TextBatch:
    """Consecutive documents; `num_bytes` were read from the corpus for them."""

    texts: tuple[str, ...]
    num_bytes: int


@dataclass(frozen=True)
class EncodedBatch:
    """The documents that have tokens, and what happened on the way to them."""

    hashed: HashedDocuments
    num_texts: int
    num_bytes: int
    num_without_tokens: int
    num_sentence_cuts: int
    num_unknown: int
    num_special_replaced: int


def encode_batch(settings: EncoderSettings, batch: TextBatch) -> EncodedBatch:
    """Pure: the result depends on the arguments alone."""
    sentences: list[str] = []
    counts: list[int] = []
    num_cuts = 0
    for text in batch.texts:
        found, cuts = split_sentences(text, settings.sentences, settings.language)
        sentences += found
        counts.append(len(found))
        num_cuts += cuts
    tokens, lengths, word_starts = _tokenize(_load_tokenizer(settings.tokenizer_file), sentences)
    tokens, num_replaced = _without_special_ids(tokens, settings)
    has_tokens = lengths > 0
    document_of_sentence = np.repeat(np.arange(len(counts)), counts)
    document_lengths = np.bincount(document_of_sentence[has_tokens], minlength=len(counts))
    kept = document_lengths > 0
    hashes = [document_hash(text) for text, is_kept in zip(batch.texts, kept, strict=True) if is_kept]
    documents = Documents(
        tokens=tokens.astype(settings.token_dtype),
        sentence_lengths=lengths[has_tokens].astype(np.uint32),
        document_lengths=document_lengths[kept].astype(np.uint32),
        word_starts=word_starts,
    )
    return EncodedBatch(
        hashed=HashedDocuments(documents, np.array(hashes, dtype=np.uint64)),
        num_texts=len(counts),
        num_bytes=batch.num_bytes,
        num_without_tokens=len(counts) - len(hashes),
        num_sentence_cuts=num_cuts,
        num_unknown=int((tokens == settings.unk_id).sum()),
        num_special_replaced=num_replaced,
    )


@lru_cache(maxsize=1)
def _load_tokenizer(path: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True  # "[MASK]" in the text is text
    return tokenizer


def _tokenize(tokenizer: Tokenizer, sentences: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids [tokens] int64, lengths [sentences] int64, word starts [tokens] bool."""
    encodings = [
        (encoding.ids, encoding.word_ids)
        for part in _slices(sentences)
        for encoding in tokenizer.encode_batch(part, add_special_tokens=False)
    ]
    lengths = np.array([len(ids) for ids, _ in encodings], dtype=np.int64)
    count = int(lengths.sum())
    tokens = np.fromiter(itertools.chain.from_iterable(ids for ids, _ in encodings), np.int64, count)
    words = np.fromiter(itertools.chain.from_iterable(words for _, words in encodings), np.int64, count)
    starts = np.ones(count, dtype=np.bool_)
    starts[1:] = words[1:] != words[:-1]
    ends = np.cumsum(lengths)
    starts[(ends - lengths)[lengths > 0]] = True
    return tokens, lengths, starts


def _slices(sentences: list[str]) -> Iterator[list[str]]:
    """Consecutive sentences of about `_SLICE_CHARACTERS` in all."""
    part: list[str] = []
    size = 0
    for sentence in sentences:
        part.append(sentence)
        size += len(sentence)
        if size >= _SLICE_CHARACTERS:
            yield part
            part, size = [], 0
    if part:
        yield part


def _without_special_ids(tokens: np.ndarray, settings: EncoderSettings) -> tuple[np.ndarray, int]:
    is_forbidden = np.zeros(settings.vocab_size, dtype=np.bool_)
    is_forbidden[list(settings.forbidden)] = True
    replaced = is_forbidden[tokens]
    return np.where(replaced, settings.unk_id, tokens), int(replaced.sum())
