"""What a tokenizer of each kind comes to, for processes that compare themselves with each other."""

import hashlib

from data_prep.tokenizer import train_tokenizer
from tests.data_prep.tokenizer.texts import KINDS, MANUAL, TIES


def hash_all() -> dict[str, str]:
    """sha256 of the tokenizer.json of each kind, all trained on the same sentences."""
    texts = (*TIES, *MANUAL[:500])
    trained = {kind: train_tokenizer(kind, texts, 500, lowercase=True).tokenizer for kind in KINDS}
    return {
        kind: hashlib.sha256(each.backend_tokenizer.to_str().encode()).hexdigest()
        for kind, each in trained.items()
    }
