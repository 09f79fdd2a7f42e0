"""Opening and reading: what does not fit is an error that names the file, never a crash."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from pretrain.data.store import TokenStore, files
from pretrain.data.store.files import sha256_of
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


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("how", ["written over", "replaced", "replaced by one of an older date"])
def test_a_file_of_the_same_size_with_other_content_is_named(store_path: Path, suffix: str, how: str) -> None:
    split = TokenStore.open(store_path).split("train")
    path = store_path / f"train-00000.{suffix}"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # of the last block; block 0 is read
    time.sleep(0.02)  # a file system's clock may tick that slowly
    target = path if how == "written over" else path.with_name("other")
    target.write_bytes(content)
    if how == "replaced by one of an older date":
        os.utime(target, (0, 0))
    target.replace(path)
    with pytest.raises(DataError, match=rf"train-00000\.{suffix} has changed while it was in use"):
        _ = [split.block(0).tokens, split.block(0).word_bits]


def test_a_file_that_was_touched_and_is_the_same_goes_on(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []

    def hash_and_note(path: Path) -> str:
        hashed.append(path)
        return sha256_of(path)

    monkeypatch.setattr(files, "sha256_of", hash_and_note)
    split = TokenStore.open(store_path).split("train")
    before = split.block(0).tokens.tolist()
    time.sleep(0.02)
    for suffix in SUFFIXES:
        path = store_path / f"train-00000.{suffix}"
        os.chmod(path, 0o444)
        os.link(path, path.with_name(f"backup.{suffix}"))
        path.with_name("other").write_bytes(path.read_bytes())
        path.with_name("other").replace(path)
    assert split.block(0).tokens.tolist() == before
    assert len(split.block(1).word_starts()) == split.block(1).num_tokens
    # Each once, not for every block.
    assert sorted(path.suffix[1:] for path in hashed) == sorted(SUFFIXES)


def test_a_file_that_goes_away_is_named(store_path: Path) -> None:
    split = TokenStore.open(store_path).split("train")
    block = split.block(0)
    (store_path / "train-00000.tokens").unlink()
    with pytest.raises(DataError, match=r"train-00000\.tokens cannot be read"):
        _ = block.tokens
    with pytest.raises(DataError, match=r"train-00000\.tokens cannot be read"):
        split.block(0)


def test_a_store_may_be_reached_through_a_link(store_path: Path) -> None:
    (store_path.parent / "link").symlink_to(store_path)
    assert texts_in(TokenStore.open(store_path.parent / "link"), "train") == random_texts(60)
