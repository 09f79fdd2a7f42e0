"""A batch of texts to token ids: the work of a worker process.

1. each text is split into sentences (`sentences`);
2. all of them are encoded at once (`encoder`), and special ids are replaced;
3. sentences without tokens go, then documents without sentences;
4. the documents are hashed, for the held-out split and nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from data_prep.clock import CpuClock
from data_prep.encode.encoder import Encoder, nul_ended
from data_prep.encode.gathering import take_apart
from data_prep.encode.kernels import PADDING
from data_prep.heldout import HashedDocuments, document_hash
from data_prep.options import SentenceMethod
from data_prep.sentences import split_pieces
from pretrain.data.store import Documents


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
class EncodedDocuments:
    """The documents that have tokens, and what happened on the way to them."""

    hashed: HashedDocuments
    num_texts: int
    num_without_tokens: int
    num_sentence_cuts: int
    num_unknown: int
    num_special_replaced: int


def encode_documents(settings: EncoderSettings, texts: Sequence[str], clock: CpuClock) -> EncodedDocuments:
    """The result depends on the settings, the texts and the content of the tokenizer file alone; `clock` counts the
    stages."""
    contents: list[bytes] = []
    counts: list[int] = []
    num_cuts = 0
    with clock.timed("sentences"):
        for text in texts:
            found, cuts = split_pieces(text, settings.sentences, settings.language)
            contents.append(nul_ended(found))
            counts.append(len(found))
            num_cuts += cuts
    contents.append(bytes(PADDING))
    encoded = _encoder(settings.tokenizer_file, settings.vocab_size).encode(
        b"".join(contents), sum(counts), clock
    )
    has_tokens = encoded.lengths > 0
    document_of_sentence = np.repeat(np.arange(len(counts)), counts)
    document_lengths = np.bincount(document_of_sentence[has_tokens], minlength=len(counts))
    kept = document_lengths > 0
    with clock.timed("hash"):
        hashes = [document_hash(text) for text, is_kept in zip(texts, kept.tolist(), strict=True) if is_kept]
    is_forbidden = np.isin(np.arange(max(settings.forbidden, default=-1) + 1), settings.forbidden)
    ids = np.empty(len(encoded.tokens), dtype=settings.token_dtype)
    word_starts = np.empty(len(ids), dtype=np.bool_)
    num_unknown, num_replaced = take_apart(
        encoded.tokens, is_forbidden, np.uint32(settings.unk_id), ids, word_starts
    )
    documents = Documents(
        tokens=ids,
        sentence_lengths=encoded.lengths[has_tokens].astype(np.uint32),
        document_lengths=document_lengths[kept].astype(np.uint32),
        word_starts=word_starts,
    )
    return EncodedDocuments(
        hashed=HashedDocuments(documents, np.array(hashes, dtype=np.uint64)),
        num_texts=len(counts),
        num_without_tokens=len(counts) - len(hashes),
        num_sentence_cuts=num_cuts,
        num_unknown=num_unknown,
        num_special_replaced=num_replaced,
    )


@lru_cache(maxsize=1)
def _encoder(path: Path, vocab_size: int) -> Encoder:
    return Encoder(path, vocab_size)
