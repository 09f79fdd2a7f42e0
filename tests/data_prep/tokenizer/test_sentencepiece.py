"""Conversion: the ids of the pipeline are those of sentencepiece itself; what it would drop is not lost."""

import io
import random
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from data_prep.tokenizer import StoreTokenizer, load_tokenizer, train_tokenizer
from data_prep.tokenizer.words import count_words
from pretrain.errors import UsageError
from tests.data_prep.tokenizer.texts import MANUAL, TIES

ASCII = (0x21, 0x7F)
OTHERS = ((0xC0, 0x250), (0x391, 0x3CA), (0x410, 0x450), (0x4E00, 0x4E40), (0x1F600, 0x1F610))
SCRIPTS = (ASCII, ASCII, *OTHERS)


def make_model(folder: Path, **settings: Any) -> Path:
    """A model as `spm_train` writes it, trained on lines of text."""
    content = io.BytesIO()
    defaults = {"vocab_size": 800, "minloglevel": 3, "num_threads": 1, "hard_vocab_limit": False}
    lines = iter(MANUAL[:2500])
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=content, **(defaults | settings)
    )
    path = folder / "spiece.model"
    path.write_bytes(content.getvalue())
    return path


def generated_sentences(count: int) -> list[str]:
    """NFKC text of several scripts, words with single spaces between them."""
    draw = random.Random(7)
    words = [
        "".join(chr(draw.randrange(*draw.choice(SCRIPTS))) for _ in range(draw.randint(1, 8)))
        for _ in range(999)
    ]
    return [
        unicodedata.normalize("NFKC", " ".join(draw.choices(words, k=draw.randint(1, 12))))
        for _ in range(count)
    ]


def differences(path: Path, trained: StoreTokenizer, sentences: list[str]) -> list[tuple[float, float]]:
    """(score there, score here) of each sentence that the two encode differently.

    Names of special tokens in them are text.
    """
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    backend = trained.tokenizer.backend_tokenizer
    backend.encode_special_tokens = True
    encoded = backend.encode_batch(sentences, add_special_tokens=False)
    return [
        (sum(map(processor.get_score, own)), sum(map(processor.get_score, each.ids)))
        for own, each in zip(processor.encode(sentences), encoded, strict=True)
        if own != each.ids
    ]


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"byte_fallback": True},
        {"normalization_rule_name": "nmt_nfkc_cf"},
        {"normalization_rule_name": "identity", "split_by_whitespace": False},
        {"normalization_rule_name": "identity", "add_dummy_prefix": False, "remove_extra_whitespaces": False},
    ],
    ids=["plain", "bytes", "folded", "across-spaces", "no-prefix"],
)
def test_ids_equal_those_of_sentencepiece(model_type: str, settings: dict[str, Any], tmp_path: Path) -> None:
    path = make_model(tmp_path, model_type=model_type, **settings)
    sentences = [
        unicodedata.normalize("NFKC", " ".join(line.split())) for line in (*MANUAL[6000:12000], *TIES)
    ]
    sentences += [*generated_sentences(1500), "[MASK] <s> </s> <unk>", "<pad>", "", "☃☃ ☃", "<0x41>"]
    different = differences(path, load_tokenizer(path), sentences)
    if model_type == "bpe":
        assert different == []
    # Of two best segmentations ("=== =" and "= ===") the last digit decides, there of float32, here of float64.
    assert len(different) < 0.01 * len(sentences)
    assert all(here == pytest.approx(there, rel=1e-6) for there, here in different)


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_the_normalization_of_the_model_comes_along(model_type: str, tmp_path: Path) -> None:
    path = make_model(tmp_path, model_type=model_type)
    odd = [
        "\uff26\uff55\uff4c\uff4c\u3000width",
        "\ufb01ne \u2461",
        "a\u00a0\u00a0b",
        "tab\tand \x01 control",
    ]
    odd += ["  spaces   around  ", "▁a▁b", "e\u0301"]
    assert differences(path, load_tokenizer(path), odd) == []


def test_missing_roles_are_added_at_the_end_and_told(tmp_path: Path) -> None:
    loaded = load_tokenizer(make_model(tmp_path, model_type="bpe"))
    size = loaded.vocab_size
    assert loaded.special_ids.model_dump() == {
        "unk": 0,
        "cls": 1,
        "sep": 2,
        "pad": size - 2,
        "mask": size - 1,
    }
    assert loaded.tokenizer.convert_ids_to_tokens([1, 2, size - 2, size - 1]) == [
        "<s>",
        "</s>",
        "<pad>",
        "<mask>",
    ]
    assert [
        f"has no {role} token" in note for role, note in zip(("pad", "mask"), loaded.notes[:2], strict=True)
    ] == [True, True]
    assert loaded.tokenizer.decode(loaded.tokenizer("a value")["input_ids"]) == "<s> a value</s>"
    loaded.save(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").special_ids == loaded.special_ids


def test_roles_the_model_has_are_found_and_names_come_before_bos_and_eos(tmp_path: Path) -> None:
    symbols: dict[str, Any] = {"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3}
    symbols |= {"control_symbols": ["[CLS]", "[SEP]", "[MASK]", "[LANG]"], "model_type": "bpe"}
    loaded = load_tokenizer(make_model(tmp_path, **symbols))
    assert loaded.special_ids.model_dump() == {"pad": 0, "unk": 1, "cls": 4, "sep": 5, "mask": 6}
    assert ["letters with combining marks" in note for note in loaded.notes] == [True]
    assert loaded.all_special_ids == (0, 1, 2, 3, 4, 5, 6, 7)


def test_symbols_defined_by_the_user_can_have_roles(tmp_path: Path) -> None:
    path = make_model(tmp_path, model_type="bpe", user_defined_symbols=["<mask>", "<sym>"])
    loaded = load_tokenizer(path)
    assert loaded.special_ids.mask == 3
    assert loaded.all_special_ids == (0, 1, 2, 3, loaded.special_ids.pad)
    assert differences(path, loaded, ["a class<sym> a<sym>class"]) == []


def test_bytes_stand_for_unknown_characters_and_come_back(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(make_model(tmp_path, byte_fallback=True, model_type="bpe")).tokenizer
    ids = tokenizer("snow ☃", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids)[-3:] == ["<0xE2>", "<0x98>", "<0x83>"]
    assert tokenizer.decode(ids) == "snow ☃"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model_type": "word"}, "words or characters"),
        ({"treat_whitespace_as_suffix": True}, "marks the ends of words"),
    ],
)
def test_models_without_a_pipeline_are_refused(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        load_tokenizer(make_model(tmp_path, **settings))


def test_what_sentencepiece_drops_with_its_line_is_kept() -> None:
    """It leaves out lines that are long, or hold NUL or its own mark, without an error."""
    texts = ["ordinary words\x00here " * 20, "left▅right " * 20, ("long" * 3000 + " ") * 5, "x " * 5000]
    tokenizer = train_tokenizer("sentencepiece-bpe", texts, 200, lowercase=False).tokenizer
    assert tokenizer.tokenize("ordinary here left right x") == ["▁ordinary", "▁here", "▁left", "▁right", "▁x"]
    assert "long" in tokenizer.get_vocab()
    assert "▅" not in tokenizer.get_vocab()


def test_words_are_counted_between_ascii_white_space_and_cut_where_long() -> None:
    counted = dict(count_words(["b a\x0ba\x00b\u00a0c", "a", "é" * 3000]))
    assert counted == {"a": 3, "b": 1, "b\u00a0c": 1, "é" * 1024: 2, "é" * 952: 1}


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_what_the_table_of_characters_does_otherwise_is_as_documented(
    model_type: str, tmp_path: Path
) -> None:
    """Where this fails because nothing differs any more, the library's table does as sentencepiece does."""
    path = make_model(tmp_path, model_type=model_type)
    loaded, processor = load_tokenizer(path), sentencepiece.SentencePieceProcessor(model_file=str(path))
    normalizer = loaded.tokenizer.backend_tokenizer.normalizer
    cases = {
        "\uff21\u0301": ("\u00c1", "A"),
        "\uff76\uff9e": ("\u30ac", "\u30ab\u3099"),
        "a\u0085": ("a\u0085", "a"),
    }
    for text, (there, here) in cases.items():
        assert processor.normalize(text).removeprefix("\u2581") == there
        assert normalizer.normalize_str(text) == here
    identity = make_model(tmp_path, model_type=model_type, normalization_rule_name="identity")
    assert all("has no" in note for note in load_tokenizer(identity).notes)
