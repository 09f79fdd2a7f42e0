"""The token store against hand-made documents: what was put in comes out, and damage is named."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from pretrain.data.store import (
    Documents,
    Manifest,
    SpecialIds,
    StoreLayout,
    StoreWriter,
    TokenStore,
    partial_path,
    verify_store,
)
from pretrain.errors import DataError, UsageError

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


def write(
    path: Path,
    batches: list[list[Text]],
    *,
    heldout: list[Text] | None = None,
    vocab_size: int = 100,
    block_tokens: int = 50,
    shard_tokens: int = 200,
) -> Manifest:
    layout = StoreLayout(vocab_size, SPECIAL, (0, 1, 2, 3, 4), block_tokens, shard_tokens)
    with StoreWriter(path, layout) as writer:
        (writer.tokenizer_path / "tokenizer.json").write_text("{}")
        for batch in batches:
            writer.add("train", documents_of(batch))
        writer.add("heldout", documents_of(heldout or []))
        return writer.finish({"options": {}})


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


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    write(tmp_path / "store", [random_texts(60)], heldout=random_texts(4, seed=1))
    return tmp_path / "store"


def test_documents_come_back_in_order(store_path: Path) -> None:
    store = TokenStore.open(store_path)
    assert texts_in(store, "train") == random_texts(60)
    assert texts_in(store, "heldout") == random_texts(4, seed=1)
    assert store.split("train").num_documents == 60
    assert store.special_ids == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    assert store.fingerprint == hashlib.sha256((store_path / "manifest.json").read_bytes()).hexdigest()
    assert verify_store(store_path, full=True, workers=2) == []


def test_blocks_and_shards_end_with_the_first_document_that_fills_them(tmp_path: Path) -> None:
    texts: list[Text] = [[[6] * 30], [[6] * 30], [[6] * 10], [[6] * 90], [[6] * 5], [[6] * 7]]
    manifest = write(tmp_path / "store", [texts], block_tokens=50, shard_tokens=160)
    shards = manifest.splits["train"].shards
    # 30+30 | 10+90 ends both the block and the shard (160); 5+7 is what is left.
    assert [(shard.tokens, shard.documents, shard.blocks) for shard in shards] == [(160, 4, 2), (12, 2, 1)]
    blocks = np.fromfile(tmp_path / "store" / "train-00000.blocks", dtype="<u8").reshape(-1, 3)
    assert blocks.tolist() == [[0, 0, 0], [60, 2, 2], [160, 4, 4]]


def test_bytes_do_not_depend_on_how_documents_were_batched(tmp_path: Path) -> None:
    texts = random_texts(60)
    write(tmp_path / "one", [texts])
    write(tmp_path / "many", [[text] for text in texts])
    names = sorted(path.name for path in (tmp_path / "one").iterdir() if path.is_file())
    assert len(names) > 10
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "many" / name).read_bytes(), name


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, "uint16"), (65_537, "uint32")])
def test_token_width_follows_the_vocabulary(tmp_path: Path, vocab_size: int, dtype: str) -> None:
    manifest = write(tmp_path / "store", [[[[vocab_size - 1, 6]]]], vocab_size=vocab_size)
    assert manifest.token_dtype == dtype
    assert texts_in(TokenStore.open(tmp_path / "store"), "train") == [[[vocab_size - 1, 6]]]


@pytest.mark.parametrize("text", [[[4]], [[100]], [[]], []])
def test_writer_refuses_special_ids_unknown_ids_and_empty_lengths(tmp_path: Path, text: Text) -> None:
    with pytest.raises((ValueError, IndexError)):
        write(tmp_path / "store", [[[[7]], text, [[9]]]])
    assert not (tmp_path / "store").exists()


def test_an_unfinished_store_is_not_a_store(tmp_path: Path) -> None:
    layout = StoreLayout(100, SPECIAL, (0, 1, 2, 3, 4))
    with StoreWriter(tmp_path / "store", layout) as writer:
        writer.add("train", documents_of(random_texts(5)))
    assert not (tmp_path / "store").exists()
    with pytest.raises(DataError, match="not a token store"):
        TokenStore.open(partial_path(tmp_path / "store"))
    with pytest.raises(UsageError, match="no token store"):
        TokenStore.open(tmp_path / "store")


def test_another_version_is_named(store_path: Path) -> None:
    manifest = json.loads((store_path / "manifest.json").read_text())
    (store_path / "manifest.json").write_text(json.dumps(manifest | {"version": 7}))
    with pytest.raises(DataError, match=r"version 7.*reads version 1"):
        TokenStore.open(store_path)
    assert "version 7" in verify_store(store_path, full=False)[0]


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b"])
def test_names_that_leave_the_store_are_refused(store_path: Path, name: str) -> None:
    manifest = json.loads((store_path / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": 0, "sha256": "0" * 64}
    (store_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="leaves the store"):
        TokenStore.open(store_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "pretrain-token-store", "version": 1}'])
def test_a_broken_manifest_is_named(store_path: Path, content: str) -> None:
    (store_path / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=r"manifest\.json"):
        TokenStore.open(store_path)


@pytest.mark.parametrize("suffix", ["tokens", "sentences", "documents", "words", "blocks"])
def test_a_truncated_file_is_named_with_both_sizes(store_path: Path, suffix: str) -> None:
    path = store_path / f"train-00000.{suffix}"
    size = path.stat().st_size
    os.truncate(path, size - 1)
    with pytest.raises(DataError, match=rf"train-00000\.{suffix} has {size - 1} bytes.*says {size}"):
        TokenStore.open(store_path)


def test_a_file_cut_short_after_the_open_is_an_error_not_a_crash(store_path: Path) -> None:
    split = TokenStore.open(store_path).split("train")
    os.truncate(store_path / "train-00000.tokens", 10)
    with pytest.raises(DataError, match=r"train-00000\.tokens became shorter"):
        split.block(1)


@pytest.mark.parametrize("suffix", ["tokens", "sentences", "documents", "words", "blocks"])
def test_one_flipped_bit_is_found_by_verify(store_path: Path, suffix: str) -> None:
    path = store_path / f"train-00001.{suffix}"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    problems = verify_store(store_path, full=True)
    assert any(path.name in problem and "sha256" in problem for problem in problems)


def test_verify_checks_sums_even_where_checksums_agree(store_path: Path) -> None:
    """A writer with a bug would seal its own nonsense; here a length is wrong but its checksum is right."""
    path = store_path / "train-00000.sentences"
    lengths = np.fromfile(path, dtype="<u4")
    lengths[0] += 1
    lengths.tofile(path)
    manifest = json.loads((store_path / "manifest.json").read_text())
    manifest["files"][path.name]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (store_path / "manifest.json").write_text(json.dumps(manifest))
    assert any("does not add up" in problem for problem in verify_store(store_path, full=True))


def test_counts_that_disagree_with_sizes_are_refused(store_path: Path) -> None:
    manifest = json.loads((store_path / "manifest.json").read_text())
    manifest["splits"]["train"]["shards"][0]["tokens"] += 8
    manifest["splits"]["train"]["tokens"] += 8
    (store_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"train-00000\.tokens"):
        TokenStore.open(store_path)
