"""The writer against hand-made documents: what was put in comes out, cut where it should be."""

from pathlib import Path

import numpy as np
import pytest

from pretrain.data.store import StoreWriter, TokenStore, partial_path, verify_store
from pretrain.errors import DataError, UsageError
from tests.data.store.documents import (
    Text,
    contents_of,
    documents_of,
    layout_of,
    random_texts,
    save_tokenizer,
    texts_in,
    write,
)


def test_documents_come_back_in_order(tmp_path: Path) -> None:
    write(tmp_path / "store", [random_texts(60)], heldout=random_texts(4, seed=1))
    store = TokenStore.open(tmp_path / "store")
    assert texts_in(store, "train") == random_texts(60)
    assert texts_in(store, "heldout") == random_texts(4, seed=1)
    assert store.split("train").num_documents == 60
    assert store.special_ids == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    assert verify_store(tmp_path / "store", full=True, workers=2) == []


def test_the_fingerprint_is_that_of_the_text_alone(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / name, [random_texts(60)], report={"built": name})
    write(tmp_path / "other", [random_texts(60, seed=1)])
    one, two, other = (TokenStore.open(tmp_path / name) for name in ("one", "two", "other"))
    assert one.manifest.as_bytes() != two.manifest.as_bytes()
    assert one.fingerprint == two.fingerprint != other.fingerprint


def table(path: Path) -> list[list[int]]:
    return np.fromfile(path, dtype="<u8").reshape(-1, 3).tolist()


def test_blocks_and_shards_end_with_the_first_document_that_fills_them(tmp_path: Path) -> None:
    texts: list[Text] = [[[6] * 30], [[6] * 30], [[6] * 10], [[6] * 90], [[6] * 5], [[6] * 7]]
    manifest = write(tmp_path / "store", [texts], layout=layout_of(block_tokens=50, shard_tokens=160))
    shards = manifest.splits["train"].shards
    # 30+30 | 10+90 ends both the block and the shard (160); 5+7 is what is left.
    assert [(shard.tokens, shard.documents, shard.blocks) for shard in shards] == [(160, 4, 2), (12, 2, 1)]
    assert table(tmp_path / "store" / "train-00000.blocks") == [[0, 0, 0], [60, 2, 2], [160, 4, 4]]


def test_a_shard_ends_no_block(tmp_path: Path) -> None:
    """30+30 | 40+5+5: the shard is full at 105 but goes on to the end of its block, which 50 fill exactly."""
    texts: list[Text] = [[[6] * 30], [[6] * 30], [[6] * 40], [[6] * 5], [[6] * 5], [[6] * 30]]
    manifest = write(tmp_path / "store", [texts], layout=layout_of(block_tokens=50, shard_tokens=101))
    assert [shard.tokens for shard in manifest.splits["train"].shards] == [110, 30]
    assert table(tmp_path / "store" / "train-00000.blocks") == [[0, 0, 0], [60, 2, 2], [110, 5, 5]]


def test_a_block_is_no_larger_than_a_shard(tmp_path: Path) -> None:
    layout = layout_of(block_tokens=1000, shard_tokens=20)
    manifest = write(tmp_path / "store", [[[[6] * 12]] * 6], layout=layout)
    assert [(shard.tokens, shard.blocks) for shard in manifest.splits["train"].shards] == [(24, 1)] * 3


def test_a_segment_ends_the_open_blocks_but_not_the_shards(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store", layout_of(block_tokens=50, shard_tokens=100)) as writer:
        save_tokenizer(writer.tokenizer_path)
        writer.end_blocks()  # nothing is open yet
        writer.add("train", documents_of([[[6] * 20]]))
        writer.add("heldout", documents_of([[[6] * 7]]))
        writer.end_blocks()
        writer.end_blocks()  # nor now
        writer.add("train", documents_of([[[6] * 40], [[6] * 20], [[6] * 30]]))
        writer.add("heldout", documents_of([[[6] * 8]]))
        writer.end_blocks()
        writer.add("train", documents_of([[[6] * 1]]))
        manifest = writer.finish({})
    assert [shard.tokens for shard in manifest.splits["train"].shards] == [110, 1]
    store = tmp_path / "store"
    assert table(store / "train-00000.blocks") == [[0, 0, 0], [20, 1, 1], [80, 3, 3], [110, 4, 4]]
    assert table(store / "heldout-00000.blocks") == [[0, 0, 0], [7, 1, 1], [15, 2, 2]]
    assert verify_store(store, full=True) == []


def test_bytes_do_not_depend_on_how_documents_were_batched(tmp_path: Path) -> None:
    texts = random_texts(60)
    write(tmp_path / "one", [texts])
    write(tmp_path / "many", [[text] for text in texts])
    assert len(contents_of(tmp_path / "one")) > 10
    assert contents_of(tmp_path / "one") == contents_of(tmp_path / "many")


def test_equal_reports_give_equal_bytes(tmp_path: Path) -> None:
    for name, report in (
        ("a", {"x": 1, "y": {"p": [1], "q": "ä"}}),
        ("b", {"y": {"q": "ä", "p": [1]}, "x": 1}),
    ):
        with StoreWriter(tmp_path / name, layout_of()) as writer:
            save_tokenizer(writer.tokenizer_path)
            writer.finish(report)
    assert contents_of(tmp_path / "a") == contents_of(tmp_path / "b")


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, "uint16"), (65_537, "uint32")])
def test_token_width_follows_the_vocabulary(tmp_path: Path, vocab_size: int, dtype: str) -> None:
    manifest = write(tmp_path / "store", [[[[vocab_size - 1, 6]]]], layout=layout_of(vocab_size))
    assert manifest.token_dtype == dtype
    assert texts_in(TokenStore.open(tmp_path / "store"), "train") == [[[vocab_size - 1, 6]]]


@pytest.mark.parametrize("text", [[[4]], [[100]], [[]], []])
def test_writer_refuses_special_ids_unknown_ids_and_empty_lengths(tmp_path: Path, text: Text) -> None:
    with pytest.raises((ValueError, IndexError)):
        write(tmp_path / "store", [[[[7]], text, [[9]]]])
    assert not (tmp_path / "store").exists()


def test_an_unfinished_store_is_not_a_store(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store", layout_of()) as writer:
        writer.add("train", documents_of(random_texts(5)))
    assert not (tmp_path / "store").exists()
    with pytest.raises(DataError, match="not a token store"):
        TokenStore.open(partial_path(tmp_path / "store"))
    with pytest.raises(UsageError, match="no token store"):
        TokenStore.open(tmp_path / "store")
