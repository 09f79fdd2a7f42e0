"""Folders and files of others: what can be used is, what cannot is named, and no code of theirs runs."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from data_prep.tokenizer import SPECIAL_TOKENS, load_tokenizer, train_tokenizer
from pretrain.errors import UsageError
from tests.data_prep.tokenizer.texts import TIES

ROLES = {
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "mask_token": "<mask>",
}


def save_word_level(folder: Path, roles: dict[str, str]) -> None:
    tokens = {token: number for number, token in enumerate([*dict.fromkeys(roles.values()), "a"])}
    backend = Tokenizer(models.WordLevel(tokens, unk_token=roles.get("unk_token", "a")))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, **roles).save_pretrained(str(folder))


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def wordpiece(tmp_path: Path) -> Path:
    folder = tmp_path / "wordpiece"
    train_tokenizer("wordpiece", TIES, 150, lowercase=True).save(folder)
    return folder


def test_bos_and_eos_stand_in_for_cls_and_sep(tmp_path: Path) -> None:
    save_word_level(tmp_path, ROLES)
    assert load_tokenizer(tmp_path).special_ids.model_dump() == {
        "pad": 0,
        "unk": 1,
        "cls": 2,
        "sep": 3,
        "mask": 4,
    }


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        (["mask_token"], "has no mask token"),
        (["bos_token"], "has no cls token"),
        (["pad_token", "eos_token"], "has no sep and no pad token"),
    ],
)
def test_missing_roles_are_named(tmp_path: Path, missing: list[str], named: str) -> None:
    save_word_level(tmp_path, {role: token for role, token in ROLES.items() if role not in missing})
    with pytest.raises(UsageError, match=named):
        load_tokenizer(tmp_path)


def test_a_mask_that_means_something_else_too_is_refused(tmp_path: Path) -> None:
    save_word_level(tmp_path, ROLES | {"mask_token": "<unk>"})
    with pytest.raises(UsageError, match="mask token that is another"):
        load_tokenizer(tmp_path)


def test_what_is_no_tokenizer_is_said_in_one_line(tmp_path: Path) -> None:
    for path, said in [
        (tmp_path / "missing", "is not a folder, nor a file that is there; give a folder"),
        (tmp_path, "holds no tokenizer; give a folder saved by `save_pretrained`, or a file"),
    ]:
        with pytest.raises(UsageError, match=said):
            load_tokenizer(path)
    for name, content, said in [
        ("tokenizer.json", b"{", "is not a tokenizer.json, or it is damaged: EOF"),
        ("a.model", b"", "is not a sentencepiece model, or it is damaged"),
        ("b.model", b"hello world", "is not a sentencepiece model, or it is damaged"),
        ("vocab.txt", b"\xff", "is not UTF-8"),
        ("vocab2.txt", b"[PAD]\n[UNK]\n[CLS]\na", r"has no line \[SEP\] and no line \[MASK\]"),
        ("words.bin", b"a", "is no tokenizer file that is known"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=said) as error:
            load_tokenizer(tmp_path / name)
        assert "\n" not in str(error.value)


def test_a_panic_of_the_library_is_a_usage_error(tmp_path: Path) -> None:
    save_word_level(tmp_path, ROLES)
    edit_json(tmp_path / "tokenizer.json", normalizer={"type": "Precompiled", "precompiled_charsmap": "%%"})
    with pytest.raises(UsageError, match="Invalid"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "config.json"])
def test_a_folder_whose_vocabulary_is_missing_is_refused(tmp_path: Path, name: str) -> None:
    """transformers makes a tokenizer of five special tokens of it."""
    (tmp_path / name).write_text(json.dumps({"tokenizer_class": "BertTokenizer", "model_type": "bert"}))
    with pytest.raises(UsageError, match="has no vocabulary, only special tokens"):
        load_tokenizer(tmp_path)


def test_code_in_the_folder_is_not_run(wordpiece: Path, tmp_path: Path) -> None:
    (wordpiece / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    auto_map = {"AutoTokenizer": ["own.Own", None]}
    edit_json(wordpiece / "tokenizer_config.json", tokenizer_class="Own", auto_map=auto_map)
    with pytest.raises(UsageError, match="custom code"):
        load_tokenizer(wordpiece)
    assert not (tmp_path / "ran").exists()


def test_a_lone_tokenizer_json_is_known_by_its_usual_names(wordpiece: Path, tmp_path: Path) -> None:
    whole = load_tokenizer(wordpiece)
    lone = tmp_path / "lone"
    lone.mkdir()
    shutil.copy(wordpiece / "tokenizer.json", lone)
    for path in (lone, lone / "tokenizer.json"):
        assert load_tokenizer(path).special_ids == whole.special_ids
    assert type(load_tokenizer(wordpiece / "tokenizer.json").tokenizer) is type(whole.tokenizer)


def test_a_lone_vocab_txt_is_berts_and_its_letters_tell_the_case(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, "hello", "##s", ","]) + "\n")
    for path in (tmp_path, tmp_path / "vocab.txt"):
        loaded = load_tokenizer(path)
        assert loaded.tokenizer("Hellos, x")["input_ids"] == [2, 5, 6, 7, 1, 3]
        assert "is lowercased" in loaded.notes[0]
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, "hello", "##s", "Hello"]))
    loaded = load_tokenizer(tmp_path)
    assert loaded.tokenizer("Hellos hello")["input_ids"] == [2, 7, 6, 5, 3]
    assert "keeps its case" in loaded.notes[0]
    assert loaded.vocab_size == 8


def test_truncation_padding_and_dropout_are_switched_off(tmp_path: Path) -> None:
    train_tokenizer("bpe", TIES, 400, lowercase=False).save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["model"]["dropout"] = 0.9
    backend = Tokenizer.from_str(json.dumps(content))
    backend.enable_truncation(3)
    backend.enable_padding(length=9)
    backend.save(str(tmp_path / "tokenizer.json"))
    load_tokenizer(tmp_path).save(tmp_path / "again")
    again = json.loads((tmp_path / "again" / "tokenizer.json").read_text())
    assert again["truncation"] is None and again["padding"] is None and again["model"]["dropout"] is None


def test_what_transformers_rebuilds_is_told(wordpiece: Path) -> None:
    edit_json(wordpiece / "tokenizer.json", normalizer={"type": "NFC"})
    assert "does not use the normalizer of tokenizer.json" in load_tokenizer(wordpiece).notes[0]
