"""The tokenizers library called plainly: whole sentences, for whatever is not looked up word by word.

No special token is added, and the name of one in the text ("[MASK]") is ordinary text.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

# A tokenizer takes some 200 bytes of memory for each character of a call.
_SLICE_CHARACTERS = 1 << 17


def load_library(path: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True
    return tokenizer


def encode_sentences(tokenizer: Tokenizer, sentences: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """ids int64 [tokens] and lengths int64 [sentences]."""
    ids = [
        encoding.ids
        for part in _slices(sentences)
        for encoding in tokenizer.encode_batch_fast(part, add_special_tokens=False)
    ]
    return _flat(ids)


def encode_sentences_and_words(
    tokenizer: Tokenizer, sentences: list[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids int64 [tokens], lengths int64 [sentences], and the number of each token's word int64 [tokens]."""
    pairs = [
        (encoding.ids, encoding.word_ids)
        for part in _slices(sentences)
        for encoding in tokenizer.encode_batch(  # the fast one does not number words
            part, add_special_tokens=False
        )
    ]
    ids, lengths = _flat([ids for ids, _ in pairs])
    words = itertools.chain.from_iterable(words for _, words in pairs)
    # An added token has no word; it is one.
    return ids, lengths, np.fromiter((-1 if word is None else word for word in words), np.int64, len(ids))


def _flat(ids: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    return np.fromiter(itertools.chain.from_iterable(ids), np.int64, int(lengths.sum())), lengths


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
