"""Made-up documents written to disk by the real writer."""

from pathlib import Path

from pretrain.data.store import Documents as StoredDocuments
from pretrain.data.store import SpecialIds, StoreLayout, StoreWriter, TokenStore
from tests.data.fakes import ALL_SPECIAL_IDS, SPECIAL_IDS, VOCAB_SIZE, Documents, FakeSplit


def write_store(
    path: Path, documents: Documents, block_tokens: int = 300, shard_tokens: int | None = None
) -> TokenStore:
    """The blocks of `FakeSplit(documents, block_tokens)` as the training text of a store."""
    layout = layout_of(block_tokens, shard_tokens or block_tokens)
    fake = FakeSplit(documents, block_tokens)
    with StoreWriter(path, layout) as writer:
        (writer.tokenizer_path / "tokenizer.json").write_text("{}")
        for block in map(fake.block, range(fake.num_blocks)):
            writer.add(
                "train",
                StoredDocuments(
                    block.tokens, block.sentence_lengths, block.document_lengths, block.begins_word
                ),
            )
        writer.finish({})
    return TokenStore.open(path)


def layout_of(block_tokens: int, shard_tokens: int) -> StoreLayout:
    return StoreLayout(
        VOCAB_SIZE,
        SpecialIds(**SPECIAL_IDS),
        tuple(ALL_SPECIAL_IDS),
        block_tokens=block_tokens,
        shard_tokens=shard_tokens,
    )
