"""Stores that are damaged, and tokenizers that are not theirs."""

import json
import shutil
from pathlib import Path

import pytest

from pretrain.doctor import stores
from pretrain.doctor.exam import Check, look
from pretrain.faults.damage import flip
from pretrain.faults.tiny import write_tiny_store
from tests.command.runs import STORE
from tests.doctor.heres import make_here, only


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return Path(shutil.copytree(STORE, tmp_path / "store"))


def tokenizer_of(tokens: int) -> str:
    """Whole words by a table of so many, [UNK] the first."""
    vocabulary = {"[UNK]": 0} | {f"word{number}": number for number in range(1, tokens)}
    return json.dumps(
        {"version": "1.0", "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"}}
    )


def test_a_store_that_is_whole(store: Path, tmp_path: Path) -> None:
    here = make_here(tmp_path, store=store, verify=True)
    only(stores.check_store(here), "ok", f"{store}: 562 in train and 111 in heldout tokens", "fingerprint")
    only(stores.check_checksums(here), "ok", "every checksum")
    only(stores.check_tokenizer(here), "ok", "and back")
    only(stores.check_model(here), "ok", "BertForPreTraining")


def test_a_flipped_bit_is_found_where_it_is_asked_for(store: Path, tmp_path: Path) -> None:
    flip(store / "train-00000.tokens", 77)
    only(stores.check_store(make_here(tmp_path, store=store)), "ok")
    only(stores.check_checksums(make_here(tmp_path, store=store)), "ok", "--verify")
    found = only(
        stores.check_checksums(make_here(tmp_path, store=store, verify=True)),
        *("failed", "train-00000.tokens has changed", "build it again"),
    )
    assert found.is_damage


def test_a_file_that_is_cut_short(store: Path, tmp_path: Path) -> None:
    with open(store / "train-00001.words", "r+b") as file:
        file.truncate(3)
    assert only(stores.check_store(make_here(tmp_path, store=store)), "failed", "has 3 bytes").is_damage


def test_no_store(tmp_path: Path) -> None:
    here = make_here(tmp_path, store=tmp_path / "none")
    found = only(
        stores.check_store(here), "failed", f"no token store at {tmp_path / 'none'}", "data_prep build"
    )
    assert not found.is_damage
    # What needs it says that it was not looked at, in few words.
    only(
        look(here, Check("store", "tokenizer", "node", stores.check_tokenizer), [found.found]),
        *("warning", "not looked at: something else has failed"),
    )


def test_a_tokenizer_that_is_damaged(store: Path, tmp_path: Path) -> None:
    flip(store / "tokenizer" / "tokenizer.json", 8 * 1000)
    found = only(stores.check_store(make_here(tmp_path, store=store)), "failed", "tokenizer.json has changed")
    assert found.is_damage
    with_none = write_tiny_store(tmp_path / "tiny", 20)
    here = make_here(tmp_path, store=with_none.path)
    only(
        stores.check_tokenizer(here),
        "failed",
        "is nothing that the tokenizers library reads",
        "build it again",
    )


def test_a_tokenizer_with_other_ids(tmp_path: Path) -> None:
    """The store says 301 entries; unknown words are 0, as [PAD] is there, and the table of the second begins at 400."""
    nothing_known = write_tiny_store(tmp_path / "a", 20, tokenizer=tokenizer_of(5).replace('": 0', '": 1'))
    only(
        stores.check_tokenizer(make_here(tmp_path, store=nothing_known.path)),
        "warning",
        "knows 0 of 1 pieces",
    )
    beyond = write_tiny_store(tmp_path / "b", 20, tokenizer=tokenizer_of(5).replace('": 0', '": 400'))
    only(
        stores.check_tokenizer(make_here(tmp_path, store=beyond.path)), "failed", "the id 400", "301 entries"
    )


def test_a_sentencepiece_model_beside_it(store: Path, tmp_path: Path) -> None:
    (store / "tokenizer" / "spiece.model").write_bytes(b"no model")
    _, found = stores.check_tokenizer(make_here(tmp_path, store=store))
    only([found], "failed", "spiece.model is nothing that sentencepiece", "build it again")


def test_a_model_that_does_not_fit(tmp_path: Path) -> None:
    only(stores.check_model(make_here(tmp_path, "data.seq_len=4096")), "failed", "4096")


def test_the_demo_store_may_be_built_later(tmp_path: Path) -> None:
    here = make_here(tmp_path, store=tmp_path / "demo")
    later = type(here)(**{**vars(here), "has_store": False})
    only(stores.check_store(later), "ok", "builds the demo store first")
    assert list(stores.check_tokenizer(later)) == list(stores.check_model(later)) == []
