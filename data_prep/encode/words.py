"""Which tokens begin a word, for masking of whole words: a table by id, where the tokens themselves say it.

- WordPiece: a token without the prefix of continuation;
- byte-level: a token that begins with a byte of white space;
- SentencePiece: a token that begins with the mark "▁" of a space.

The first token of a sentence always begins a word. For other tokenizers there is no table: there the tokenizer
numbers the words of each text.
"""

from typing import Any

import numpy as np
from tokenizers import pre_tokenizers

from data_prep.encode.rules import SPACE_MARK, WHITE_SPACE, parts_of


def word_start_table(
    tokenizer: dict[str, Any], vocabulary: dict[str, int], vocab_size: int
) -> np.ndarray | None:
    """bool [vocab_size], from the content of a tokenizer.json; None where its tokens do not say."""
    model = tokenizer["model"]
    pre_tokenizer_kinds = {part["type"] for part in parts_of(tokenizer["pre_tokenizer"])}
    normalizers = parts_of(tokenizer["normalizer"])
    if model["type"] == "WordPiece":
        prefix = model["continuing_subword_prefix"]
        starting = [index for token, index in vocabulary.items() if not token.startswith(prefix)]
    elif "ByteLevel" in pre_tokenizer_kinds and not model.get("end_of_word_suffix"):
        forms = tuple(_byte_level_forms(WHITE_SPACE))
        starting = [index for token, index in vocabulary.items() if token.startswith(forms)]
    elif "Metaspace" in pre_tokenizer_kinds or any(
        part.get("prepend") == SPACE_MARK or part.get("content") == SPACE_MARK for part in normalizers
    ):
        starting = [index for token, index in vocabulary.items() if token.startswith(SPACE_MARK)]
    else:
        return None
    table = np.zeros(vocab_size, dtype=np.bool_)
    table[[index for index in starting if index < vocab_size]] = True
    return table


def _byte_level_forms(content: bytes) -> list[str]:
    """The characters that stand for these ASCII bytes."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return list(byte_level.pre_tokenize_str(content.decode())[0][0])
