"""A small token store of made-up text, written by the real writer, and a small model."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.data.store import Documents, SpecialIds, StoreLayout, StoreWriter, TokenStore

VOCAB_SIZE = 301
SPECIAL = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)
_FIRST_TEXT_ID = 5
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_SPARE_POSITIONS = 8


def write_tiny_store(
    path: Path, num_documents: int = 240, seed: int = 0, tokenizer: str = "{}"
) -> TokenStore:
    """Documents of 2 to 12 sentences of 2 to 20 tokens, drawn by Zipf's law so that there is something to learn.

    One document in eight is held out.
    """
    layout = StoreLayout(VOCAB_SIZE, SPECIAL, (0, 1, 2, 3, 4), block_tokens=2000, shard_tokens=20_000)
    with StoreWriter(path, layout) as writer:
        (writer.tokenizer_path / "tokenizer.json").write_text(tokenizer)
        for index in range(num_documents):
            writer.add("heldout" if index % 8 == 7 else "train", _document(seed, index))
        writer.finish({"options": {}})
    return TokenStore.open(path)


def _document(seed: int, index: int) -> Documents:
    draw = np.random.default_rng([seed, index])
    lengths = draw.integers(2, 21, draw.integers(2, 13))
    ranks = np.arange(1, VOCAB_SIZE - _FIRST_TEXT_ID + 1)
    tokens = draw.choice(ranks, lengths.sum(), p=(1 / ranks) / (1 / ranks).sum()) + _FIRST_TEXT_ID - 1
    return Documents(
        tokens=tokens.astype(np.uint32),
        sentence_lengths=lengths.astype(np.uint32),
        document_lengths=np.array([len(lengths)], dtype=np.uint32),
        word_starts=np.ones(len(tokens), dtype=np.bool_),
    )


def write_model(path: Path, seq_len: int, model_type: str = "bert", **fields: Any) -> Path:
    """A Hugging Face config JSON that takes its vocabulary from the store."""
    content = {
        "model_type": model_type,
        **_SIZES,
        "max_position_embeddings": seq_len + _SPARE_POSITIONS,
        **fields,
    }
    path.write_text(json.dumps(content))
    return path
