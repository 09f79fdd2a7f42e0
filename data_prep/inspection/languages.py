"""The languages of some documents, guessed from their decoded text by py3langid (139 languages).

They say whether `--language`, by which sentences were split, fits the corpus.
"""

from collections import Counter
from typing import Any

import numpy as np
import py3langid
from tokenizers import Tokenizer

from data_prep.inspection.scan import document_tokens, spread
from pretrain.data.store import StoreSplit

MAX_DOCUMENTS = 256
_MAX_BLOCKS = 16
_MAX_TOKENS = 256
_MIN_CHARACTERS = 20
_SHOWN = 5


def languages(split: StoreSplit, tokenizer: Tokenizer) -> dict[str, Any]:
    """Share of documents in each language (ISO 639-1), the commonest first; at most `MAX_DOCUMENTS` are
    decoded, the beginning of each, and texts too short to tell are left out."""
    found: Counter[str] = Counter()
    blocks = spread(split.num_blocks, _MAX_BLOCKS)
    for index in blocks:
        block = split.block(index)
        lengths = document_tokens(block)
        starts = np.cumsum(lengths) - lengths
        for document in spread(len(lengths), MAX_DOCUMENTS // len(blocks)):
            start, length = int(starts[document]), min(int(lengths[document]), _MAX_TOKENS)
            text = tokenizer.decode(block.tokens[start : start + length].tolist())
            if len(text) >= _MIN_CHARACTERS:
                found[py3langid.classify(text)[0]] += 1
    shares = {name: count / found.total() for name, count in found.most_common(_SHOWN)}
    return {"documents": found.total(), "shares": shares}
