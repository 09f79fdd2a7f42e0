"""A store of version 1, written by the release that wrote such stores, is still read, verified, trained on."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretrain.data.options import SamplingOptions
from pretrain.data.order import Cursor
from pretrain.data.store import TokenStore, merge_parts, verify_store
from pretrain.data.stream import RowStream
from pretrain.errors import DataError, UsageError

OLD_STORE = Path(__file__).parent / "version_1"
FINGERPRINT = "87b0786d03370c2e8a66cdb79926c7256fa0a7e5f6fa79527454e3d40f248257"


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    """The documents' sentences as the tokenizer encodes them, in the order of the text."""
    content: dict[str, Any] = json.loads((OLD_STORE.parent / "version_1.json").read_text())
    return content


def documents_in(store: TokenStore, split: str) -> list[list[list[int]]]:
    documents = []
    view = store.split(split)
    for index in range(view.num_blocks):
        block = view.block(index)
        sentences = [part.tolist() for part in np.split(block.tokens, np.cumsum(block.sentence_lengths)[:-1])]
        ends = np.cumsum(block.document_lengths)
        documents += [
            sentences[end - length : end] for end, length in zip(ends, block.document_lengths, strict=True)
        ]
    return documents


def test_it_holds_what_was_written(expected: dict[str, Any]) -> None:
    store = TokenStore.open(OLD_STORE)
    documents, heldout = expected["documents"], set(expected["heldout"])
    train = [document for index, document in enumerate(documents) if index not in heldout]
    assert documents_in(store, "train") == train
    assert documents_in(store, "heldout") == [documents[index] for index in expected["heldout"]]
    assert (store.manifest.version, len(store.manifest.splits["train"].shards)) == (1, 2)
    assert (
        store.fingerprint
        == FINGERPRINT
        == hashlib.sha256((OLD_STORE / "manifest.json").read_bytes()).hexdigest()
    )


def test_it_is_whole() -> None:
    assert verify_store(OLD_STORE, full=True) == []
    assert verify_store(OLD_STORE, full=False) == []


def test_it_is_trained_on(expected: dict[str, Any]) -> None:
    """Every token of the training split is shown once in an epoch of masked language modelling."""
    store = TokenStore.open(OLD_STORE)
    options = SamplingOptions(seq_len=32, objective="mlm", packing=True)
    stream = RowStream(
        store.split("train"), store.special_ids, store.all_special_ids, store.vocab_size, options, seed=3
    )
    rows = stream.epoch_rows(0)
    batch = rows.batch(0, rows.num_rows)
    shown = batch.input_ids.numpy().reshape(-1).copy()
    shown[batch.masked_positions[: batch.num_masked].numpy()] = batch.masked_labels[
        : batch.num_masked
    ].numpy()
    read = shown[~np.isin(shown, store.all_special_ids)]
    train = (text for index, text in enumerate(expected["documents"]) if index not in expected["heldout"])
    assert sorted(read.tolist()) == sorted(token for text in train for sentence in text for token in sentence)
    assert rows.next_cursor == Cursor(1, 0, 0)


@pytest.mark.parametrize("name", ["train-00001.tokens", "heldout-00000.words", "tokenizer/tokenizer.json"])
def test_its_damage_is_found(tmp_path: Path, name: str) -> None:
    shutil.copytree(OLD_STORE, tmp_path / "store")
    content = bytearray((tmp_path / "store" / name).read_bytes())
    content[len(content) // 2] ^= 4
    (tmp_path / "store" / name).write_bytes(content)
    assert any(name in problem for problem in verify_store(tmp_path / "store", full=True))


def test_it_is_no_part_of_a_new_store(tmp_path: Path) -> None:
    shutil.copytree(OLD_STORE, tmp_path / "whole" / "part-00001-of-00001")
    with pytest.raises(
        UsageError, match="part-00001-of-00001 is a store of version 1: build that part again"
    ):
        merge_parts(tmp_path / "whole", [tmp_path / "whole" / "part-00001-of-00001"], {})


def test_it_cannot_pass_for_version_2(tmp_path: Path) -> None:
    shutil.copytree(OLD_STORE, tmp_path / "store")
    path = tmp_path / "store" / "manifest.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(DataError, match="own checksum"):
        TokenStore.open(tmp_path / "store")
