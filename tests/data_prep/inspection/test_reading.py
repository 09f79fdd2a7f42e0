"""Ids as text, under each kind of tokenizer."""

import pytest
from tokenizers import Tokenizer, models

from data_prep.inspection.reading import Reader
from tests.data_prep.inspection.stores import CLS, KINDS, MASK, PAD, SEP, SPECIAL, TEXT, UNK, make_tokenizer


@pytest.fixture(params=KINDS, scope="module")
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return make_tokenizer(request.param)


@pytest.fixture
def reader(tokenizer: Tokenizer) -> Reader:
    return Reader(tokenizer, MASK, {CLS, SEP, PAD})


def without_spaces(text: str) -> str:
    return text.replace(" ", "")


def encode(tokenizer: Tokenizer, text: str = TEXT) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def test_text_comes_back(tokenizer: Tokenizer, reader: Reader) -> None:
    ids = encode(tokenizer)
    assert UNK not in ids
    assert without_spaces(reader.plain(ids)) == without_spaces(TEXT)
    assert "The quick brown fox jumps over the lazy dog" in reader.plain(ids)


def test_special_tokens_stand_apart(tokenizer: Tokenizer, reader: Reader) -> None:
    a, b = encode(tokenizer, "The lazy dog"), encode(tokenizer, "jumping on")
    ids = [CLS, *a, SEP, *b, SEP, PAD]
    assert reader.marked(ids, ids) == "[CLS] The lazy dog [SEP] jumping on [SEP] [PAD]"


def test_masks_stand_where_the_text_was(tokenizer: Tokenizer, reader: Reader) -> None:
    """Whatever is masked, putting the words back gives the text."""
    original = [CLS, *encode(tokenizer), SEP]
    for every in (1, 2, 3, 5):
        places = range(1, len(original) - 1, every)
        seen = [MASK if place in places else token for place, token in enumerate(original)]
        text = reader.marked(seen, original)
        for place in places:
            word = reader.word(original[place])
            text = text.replace("[MASK]", "" if word in ("▁", "Ġ") else word, 1)
        assert without_spaces(text) == f"[CLS]{without_spaces(TEXT)}[SEP]"


@pytest.mark.parametrize("kind", KINDS)
def test_a_masked_word_keeps_its_spaces(kind: str) -> None:
    tokenizer = make_tokenizer(kind, ["aa bb cc dd"] * 30)
    if kind == "unigram":  # its trainer makes no pieces of so little text
        pieces = [*SPECIAL, "▁aa", "▁bb", "▁cc", "▁dd"]
        tokenizer.model = models.Unigram([(piece, -1.0) for piece in pieces], unk_id=UNK)
    reader = Reader(tokenizer, MASK, {CLS, SEP, PAD})
    ids = encode(tokenizer, "aa bb cc dd")
    words = [reader.word(token) for token in ids]
    for word in ("bb", "dd"):
        place = words.index(word)
        masked = " ".join("[MASK]" if each == word else each for each in ("aa", "bb", "cc", "dd"))
        assert reader.marked([*ids[:place], MASK, *ids[place + 1 :]], ids) == masked


def test_a_masked_part_of_a_word_stays_attached() -> None:
    tokenizer = make_tokenizer("wordpiece", ["walking walks talking talks walk talk"] * 10)
    reader = Reader(tokenizer, MASK, {CLS, SEP, PAD})
    tokenizer.model = models.WordPiece(
        {token: number for number, token in enumerate([*SPECIAL, "walk", "##ing", "##s", "on"])},
        unk_token="[UNK]",
    )
    walking_on = [5, 6, 8]
    assert reader.marked([5, MASK, 8], walking_on) == "walk[MASK] on"
    assert reader.marked([MASK, 6, 8], walking_on) == "[MASK]ing on"


def test_a_part_of_a_character_is_named() -> None:
    tokenizer = make_tokenizer("bpe")
    reader = Reader(tokenizer, MASK, {CLS, SEP, PAD})
    euro = encode(tokenizer, "€")
    assert [reader.word(token) for token in euro[-3:]] == ["â", "Ĥ", "¬"]


def test_an_unknown_word_is_shown() -> None:
    tokenizer = make_tokenizer("wordpiece")
    reader = Reader(tokenizer, MASK, {CLS, SEP, PAD})
    ids = [CLS, *encode(tokenizer, "lazy ☃ dog"), SEP]
    assert reader.marked(ids, ids) == "[CLS] lazy [UNK] dog [SEP]"
