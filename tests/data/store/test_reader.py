"""Opening and reading: what does not fit is an error that names the file, never a crash."""

import os
from pathlib import Path

import numpy as np
import pytest

from pretrain.data.store import TokenStore
from pretrain.errors import DataError, UsageError
from tests.data.store.documents import random_texts, texts_in, write

SUFFIXES = ["tokens", "sentences", "documents", "words", "blocks"]


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    write(tmp_path / "store", [random_texts(60)], heldout=random_texts(4, seed=1))
    return tmp_path / "store"


def test_only_what_is_there_can_be_read(store_path: Path) -> None:
    store = TokenStore.open(store_path)
    for index in (-1, store.split("train").num_blocks):
        with pytest.raises(IndexError, match="which has"):
            store.split("train").block(index)
    with pytest.raises(UsageError, match="no split 'test'; it has heldout, train"):
        store.split("test")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_truncated_file_is_named_with_both_sizes(store_path: Path, suffix: str) -> None:
    path = store_path / f"train-00000.{suffix}"
    size = path.stat().st_size
    os.truncate(path, size - 1)
    with pytest.raises(DataError, match=rf"train-00000\.{suffix} has {size - 1} bytes.*says {size}"):
        TokenStore.open(store_path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_cut_short_after_the_open_is_an_error_not_a_crash(store_path: Path, suffix: str) -> None:
    split = TokenStore.open(store_path).split("train")
    os.truncate(store_path / f"train-00000.{suffix}", 3)
    with pytest.raises(DataError, match=rf"train-00000\.{suffix} became shorter"):
        split.block(1)


@pytest.mark.parametrize("suffix", ["tokens", "words"])
def test_a_file_cut_short_before_its_tokens_are_read(store_path: Path, suffix: str) -> None:
    block = TokenStore.open(store_path).split("train").block(1)
    os.truncate(store_path / f"train-00000.{suffix}", 3)
    with pytest.raises(DataError, match=rf"train-00000\.{suffix} became shorter"):
        _ = block.tokens, block.word_starts()


def test_a_block_outlives_its_files(store_path: Path) -> None:
    """What was read is a copy: cutting the file afterwards changes nothing and kills nobody."""
    block = TokenStore.open(store_path).split("train").block(1)
    before = block.tokens.tolist()
    os.truncate(store_path / "train-00000.tokens", 0)
    assert block.tokens.tolist() == before


@pytest.mark.parametrize(("suffix", "dtype"), [("sentences", "<u4"), ("documents", "<u4"), ("blocks", "<u8")])
def test_counts_that_changed_after_the_open_are_named(store_path: Path, suffix: str, dtype: str) -> None:
    """A sentence of another length would shift every sample behind it."""
    split = TokenStore.open(store_path).split("train")
    path = store_path / f"train-00000.{suffix}"
    items = np.fromfile(path, dtype)
    items[:3] += 1 << 20
    items.tofile(path)
    with pytest.raises(DataError, match=rf"train-00000\.{suffix} has changed"):
        split.block(0)


def test_a_store_may_be_reached_through_a_link(store_path: Path) -> None:
    (store_path.parent / "link").symlink_to(store_path)
    assert texts_in(TokenStore.open(store_path.parent / "link"), "train") == random_texts(60)
