"""Hashes of documents by their token ids: equal documents have equal hashes, whatever text they come from."""

import hashlib

import numpy as np


def hash_documents(tokens: np.ndarray, document_tokens: np.ndarray) -> np.ndarray:
    """64 bits of the blake2b of each document's ids as they lie in memory, uint64 [documents].

    `document_tokens` [documents]: tokens of each; they lie one after another in `tokens`.
    """
    if not len(document_tokens):
        return np.empty(0, np.uint64)
    content = np.ascontiguousarray(tokens).data.cast("B")
    digests = []
    start = 0
    for end in (np.cumsum(document_tokens, dtype=np.int64) * tokens.itemsize).tolist():
        digests.append(hashlib.blake2b(content[start:end], digest_size=8).digest())
        start = end
    return np.frombuffer(b"".join(digests), dtype="<u8")
