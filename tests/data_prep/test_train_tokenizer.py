"""Training is repeatable in other processes too, the folder is an ordinary one, and roles are checked."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast

from data_prep.tokenizer import SPECIAL_TOKENS, load_tokenizer, train_wordpiece
from pretrain.errors import DataError, UsageError

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "lazy",
    "dogs",
    "seven",
    "quantum",
    "wizards",
    "café",
]
TEXTS = [" ".join(WORDS[(i * j) % len(WORDS)] for j in range(1, 9)) + f". Nr {i}!" for i in range(1, 300)]

TRAIN = """
import hashlib
from training_texts import TEXTS
from data_prep.tokenizer import train_wordpiece
backend = train_wordpiece(TEXTS, 150, lowercase=True).tokenizer.backend_tokenizer
print(hashlib.sha256(backend.to_str().encode()).hexdigest())
"""


def vocabulary_hash(vocab_size: int) -> str:
    tokenizer = train_wordpiece(TEXTS, vocab_size, lowercase=True).tokenizer
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


def test_training_twice_gives_equal_bytes_whatever_the_process(tmp_path: Path) -> None:
    """The library's trainer numbers its alphabet by a hash map seeded anew in each process."""
    (tmp_path / "training_texts.py").write_text(f"TEXTS = {TEXTS!r}\n")
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"}
    command = [sys.executable, "-c", TRAIN]
    hashes = {
        subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()
        for _ in range(2)
    }
    assert hashes == {vocabulary_hash(150)} == {vocabulary_hash(150)}


def test_the_saved_folder_is_an_ordinary_bert_tokenizer(tmp_path: Path) -> None:
    trained = train_wordpiece(TEXTS, 150, lowercase=True)
    trained.save(tmp_path)
    loaded = AutoTokenizer.from_pretrained(str(tmp_path))
    assert isinstance(loaded, BertTokenizer)
    assert [loaded.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3, 4]
    assert trained.special_ids.model_dump() == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    encoded = loaded("The fox [MASK]", "CAFÉ")
    assert encoded["token_type_ids"] == [0, 0, 0, 0, 0, 1, 1]
    assert loaded.decode(encoded["input_ids"]) == "[CLS] the fox [MASK] [SEP] cafe [SEP]"
    assert loaded.model_max_length == 512
    assert len(loaded) == trained.vocab_size == 150
    again = load_tokenizer(tmp_path)
    assert (again.vocab_size, again.special_ids) == (trained.vocab_size, trained.special_ids)


def test_cased_keeps_case_and_accents() -> None:
    tokenizer = train_wordpiece([*TEXTS, "Café Café Café " * 50], 200, lowercase=False).tokenizer
    assert tokenizer.tokenize("Café") == ["Café"]


def test_a_small_vocabulary_is_not_exceeded_by_the_alphabet() -> None:
    many = [chr(0x4E00 + i) + " " + chr(0x430 + i % 32) * 3 for i in range(2000)]
    assert train_wordpiece(many, 120, lowercase=True).vocab_size <= 120


def test_no_words_is_a_data_error() -> None:
    with pytest.raises(DataError, match="no word"):
        train_wordpiece([" \n ", "\x00"], 100, lowercase=True)


def save_word_level(folder: Path, roles: dict[str, str]) -> None:
    tokens = {token: number for number, token in enumerate([*roles.values(), "a"])}
    backend = Tokenizer(models.WordLevel(tokens, unk_token=roles.get("unk_token", "a")))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, **roles).save_pretrained(str(folder))


ROLES = {
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "mask_token": "<mask>",
}


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
    ("missing", "named"), [("mask_token", "mask"), ("bos_token", "cls"), ("pad_token", "pad")]
)
def test_a_missing_role_is_named(tmp_path: Path, missing: str, named: str) -> None:
    save_word_level(tmp_path, {role: token for role, token in ROLES.items() if role != missing})
    with pytest.raises(UsageError, match=f"has no {named} token"):
        load_tokenizer(tmp_path)


def test_folders_without_a_tokenizer_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a folder"):
        load_tokenizer(tmp_path / "missing")
    with pytest.raises(UsageError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UsageError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
