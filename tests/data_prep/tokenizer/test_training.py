"""Each kind of tokenizer: repeatable in other processes too, an ordinary folder, and plain words on bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, BertTokenizer, pipeline

from data_prep.options import TokenizerKind
from data_prep.tokenizer import SPECIAL_TOKENS, StoreTokenizer, load_tokenizer, train_tokenizer
from pretrain.errors import DataError, UsageError
from tests.data_prep.tokenizer.hashes import hash_all
from tests.data_prep.tokenizer.texts import KINDS, MANUAL, TIES

ROOT = Path(__file__).resolve().parents[3]
PIECES = "[CLS] ▁The ▁value [MASK] . [SEP] ▁The ▁class [SEP]"
SENTENCE = "The yield expression [MASK] <mask> isn't “new”, e.g. in Python 3.14"


def run_elsewhere(code: str, **environment: str) -> Any:
    """What the code prints as JSON, in a fresh process."""
    command = [sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)


def test_training_twice_gives_equal_bytes_whatever_the_process_and_its_threads() -> None:
    """The library's trainer numbers an alphabet by a hash map seeded anew in each process, and sentencepiece
    adds up in the order of its threads."""
    code = "import json; from tests.data_prep.tokenizer import hashes; print(json.dumps(hashes.hash_all()))"
    one = run_elsewhere(code, PYTHONHASHSEED="1", RAYON_NUM_THREADS="1", OMP_NUM_THREADS="1")
    three = run_elsewhere(code, PYTHONHASHSEED="2", RAYON_NUM_THREADS="3", OMP_NUM_THREADS="3")
    assert one == three == hash_all()


@pytest.fixture(scope="module")
def trained() -> dict[str, StoreTokenizer]:
    return {kind: train_tokenizer(kind, MANUAL[:9000], 1000, lowercase=kind == "wordpiece") for kind in KINDS}


def test_a_fresh_process_loads_each_folder_and_gives_equal_ids(
    trained: dict[str, StoreTokenizer], tmp_path: Path
) -> None:
    for kind, tokenizer in trained.items():
        tokenizer.save(tmp_path / kind)
        assert "TokenizersBackend" not in (tmp_path / kind / "tokenizer_config.json").read_text()
    code = f"""
import json, pathlib, transformers
encoded = {{}}
for folder in pathlib.Path({str(tmp_path)!r}).iterdir():
    each = transformers.AutoTokenizer.from_pretrained(str(folder))
    encoded[folder.name] = [each({SENTENCE!r}, "two")["input_ids"], each.mask_token_id, each.model_max_length]
print(json.dumps(encoded))
"""
    expected = {
        kind: [each.tokenizer(SENTENCE, "two")["input_ids"], each.special_ids.mask, 512]
        for kind, each in trained.items()
    }
    assert run_elsewhere(code) == expected
    for kind, each in trained.items():
        again = load_tokenizer(tmp_path / kind)
        again.save(tmp_path / "again")
        for file in (tmp_path / "again").iterdir():
            assert file.read_bytes() == (tmp_path / kind / file.name).read_bytes()
        assert (again.vocab_size, again.special_ids) == (each.vocab_size, each.special_ids)
        assert again.all_special_ids == each.all_special_ids == (0, 1, 2, 3, 4)
        assert again.notes == ()


@pytest.mark.parametrize(
    ("kind", "tokens", "decoded"),
    [
        (
            "wordpiece",
            "[CLS] the value [MASK] . [SEP] the class [SEP]",
            "[CLS] the value [MASK]. [SEP] the class [SEP]",
        ),
        ("bpe", "<s> The Ġvalue <mask> . </s> The Ġclass </s>", "<s>The value<mask>.</s>The class</s>"),
        (
            "unigram",
            "[CLS] ▁The ▁value [MASK] . [SEP] ▁The ▁class [SEP]",
            "[CLS] The value[MASK].[SEP] The class[SEP]",
        ),
        ("sentencepiece-bpe", PIECES, "[CLS] The value[MASK].[SEP] The class[SEP]"),
    ],
)
def test_pairs_are_framed_as_in_pretraining(
    trained: dict[str, StoreTokenizer], kind: str, tokens: str, decoded: str
) -> None:
    """A full stop after the mask is the piece that a full stop after a word is."""
    tokenizer = trained[kind].tokenizer
    pair = tokenizer(f"The value {tokenizer.mask_token}.", "The class")
    assert tokenizer.convert_ids_to_tokens(pair["input_ids"]) == tokens.split()
    assert pair["token_type_ids"] == [0, 0, 0, 0, 0, 0, 1, 1, 1]
    assert tokenizer.decode(pair["input_ids"]) == decoded
    assert tokenizer.decode(
        tokenizer("the same text, don't change")["input_ids"], skip_special_tokens=True
    ) in (
        "the same text, don't change",
        "the same text, don ' t change",
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_beside_it_fills_masks(
    trained: dict[str, StoreTokenizer], kind: TokenizerKind, tmp_path: Path
) -> None:
    trained[kind].save(tmp_path)
    size: dict[str, Any] = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
    }
    BertForMaskedLM(BertConfig(vocab_size=trained[kind].vocab_size, **size)).save_pretrained(tmp_path)
    fill: Any = pipeline("fill-mask", model=str(tmp_path))
    assert repr(fill.tokenizer.backend_tokenizer.pre_tokenizer) == repr(
        trained[kind].tokenizer.backend_tokenizer.pre_tokenizer
    )
    assert len(fill(f"The {fill.tokenizer.mask_token} of a class.")) == 5


def test_wordpiece_is_an_ordinary_bert_tokenizer(tmp_path: Path) -> None:
    trained = train_tokenizer("wordpiece", TIES, 150, lowercase=True)
    trained.save(tmp_path)
    loaded = AutoTokenizer.from_pretrained(str(tmp_path))
    assert isinstance(loaded, BertTokenizer)
    assert [loaded.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3, 4]
    assert trained.special_ids.model_dump() == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    encoded = loaded("The fox [MASK]", "CAFÉ")
    assert encoded["token_type_ids"] == [0, 0, 0, 0, 0, 1, 1]
    assert loaded.decode(encoded["input_ids"]) == "[CLS] the fox [MASK] [SEP] cafe [SEP]"
    assert len(loaded) == trained.vocab_size == 150


def test_byte_level_bpe_has_a_token_for_every_text_and_gives_it_back(
    trained: dict[str, StoreTokenizer],
) -> None:
    backend = trained["bpe"].tokenizer.backend_tokenizer
    backend.encode_special_tokens = True
    text = "<s> naïve 東京 \u0301 \U0001f600 </s><mask>"
    ids = backend.encode(text, add_special_tokens=False).ids
    assert not set(ids) & set(trained["bpe"].all_special_ids)
    assert backend.decode(ids) == text
    assert trained["bpe"].special_ids.model_dump() == {"pad": 1, "unk": 3, "cls": 0, "sep": 2, "mask": 4}


def test_byte_level_bpe_learns_no_line_breaks_because_sentences_have_none() -> None:
    trained = train_tokenizer("bpe", ["one\n\n\n    two\n\n\n    three"] * 50, 400, lowercase=False)
    assert not [piece for piece in trained.tokenizer.get_vocab() if "Ċ" in piece and len(piece) > 1]
    assert not [piece for piece in trained.tokenizer.get_vocab() if "ĠĠ" in piece]


@pytest.mark.parametrize("kind", KINDS)
def test_case_is_kept_or_folded(kind: TokenizerKind) -> None:
    texts = [*TIES, "Café Café Café " * 50]
    cased = train_tokenizer(kind, texts, 600, lowercase=False).tokenizer
    assert cased.tokenize("a Café") != cased.tokenize("a café")
    folded = train_tokenizer(kind, texts, 600, lowercase=True).tokenizer
    assert folded.tokenize("a CAFÉ") == folded.tokenize("a café")


@pytest.mark.parametrize("kind", ("wordpiece", "unigram", "sentencepiece-bpe"))
def test_a_small_vocabulary_is_not_exceeded_by_the_alphabet(kind: TokenizerKind) -> None:
    many = [chr(0x4E00 + i) + " " + chr(0x430 + i % 32) * 3 for i in range(2000)]
    assert train_tokenizer(kind, many, 120, lowercase=True).vocab_size <= 120


def test_wordpiece_knows_thousands_of_chinese_characters_where_the_size_allows_it() -> None:
    characters = [chr(0x4E00 + i) for i in range(3000)]
    trained = train_tokenizer("wordpiece", characters, 16_000, lowercase=True)
    assert trained.tokenizer.unk_token not in trained.tokenizer.tokenize("".join(characters))


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_corpus_gives_a_small_vocabulary(kind: TokenizerKind) -> None:
    trained = train_tokenizer(kind, ["ab ab", "abc"], 5000, lowercase=False)
    assert trained.vocab_size < 300
    assert trained.special_ids.unk not in trained.tokenizer("abc ab")["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
def test_no_words_is_a_data_error(kind: TokenizerKind) -> None:
    with pytest.raises(DataError, match="no word"):
        train_tokenizer(kind, [" \n ", "\x00"], 400, lowercase=True)


@pytest.mark.parametrize(("kind", "needed"), [("wordpiece", 32), ("bpe", 262), ("unigram", 32)])
def test_a_size_without_room_is_blamed_not_the_corpus(kind: TokenizerKind, needed: int) -> None:
    for size in (3, needed - 1):
        with pytest.raises(UsageError, match=f"--vocab-size {size} is too small .*use {needed} or more"):
            train_tokenizer(kind, TIES, size, lowercase=True)
    assert train_tokenizer(kind, TIES, needed, lowercase=True).vocab_size <= needed
