"""Hand-made documents into stores and back: what the tests of the store share."""

from pathlib import Path
from typing import Any

import numpy as np

from pretrain.data.store import Documents, Manifest, SpecialIds, StoreLayout, StoreWriter, TokenStore

SPECIAL = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)
Text = list[list[int]]  # one document: sentences of token ids


def documents_of(texts: list[Text]) -> Documents:
    """A word begins wherever the id is even."""
    sentences = [sentence for text in texts for sentence in text]
    tokens = np.array([token for sentence in sentences for token in sentence], dtype=np.uint32)
    return Documents(
        tokens=tokens,
        sentence_lengths=np.array([len(sentence) for sentence in sentences], dtype=np.uint32),
        document_lengths=np.array([len(text) for text in texts], dtype=np.uint32),
        word_starts=tokens % 2 == 0,
    )


def random_texts(count: int, seed: int = 0) -> list[Text]:
    draw = np.random.default_rng(seed)
    return [
        [draw.integers(5, 100, draw.integers(1, 9)).tolist() for _ in range(draw.integers(1, 5))]
        for _ in range(count)
    ]


def layout_of(vocab_size: int = 100, block_tokens: int = 50, shard_tokens: int = 200) -> StoreLayout:
    return StoreLayout(vocab_size, SPECIAL, (0, 1, 2, 3, 4), block_tokens, shard_tokens)


def save_tokenizer(folder: Path, content: str = "{}") -> None:
    """Any two files: the store does not look into them."""
    (folder / "tokenizer.json").write_text(content)
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 512}')


def write(
    path: Path,
    batches: list[list[Text]],
    *,
    heldout: list[Text] | None = None,
    layout: StoreLayout | None = None,
    report: dict[str, Any] | None = None,
) -> Manifest:
    """A finished store of these documents, handed over batch by batch."""
    with StoreWriter(path, layout or layout_of()) as writer:
        save_tokenizer(writer.tokenizer_path)
        for batch in batches:
            writer.add("train", documents_of(batch))
        writer.add("heldout", documents_of(heldout or []))
        return writer.finish(report or {"options": {}})


def texts_in(store: TokenStore, split: str) -> list[Text]:
    """Back from blocks to nested lists, checking the word bits on the way."""
    texts: list[Text] = []
    view = store.split(split)
    for index in range(view.num_blocks):
        block = view.block(index)
        assert np.array_equal(block.word_starts(), block.tokens % 2 == 0)
        sentences = np.split(block.tokens, np.cumsum(block.sentence_lengths)[:-1])
        position = 0
        for length in block.document_lengths.tolist():
            texts.append([sentence.tolist() for sentence in sentences[position : position + length]])
            position += length
    return texts


def contents_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by relative name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
