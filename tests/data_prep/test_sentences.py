"""Sentences: wrapped prose stays whole, nothing is lost, nothing is long, white space is single spaces."""

from collections.abc import Callable

import pytest
import sentencex
from hypothesis import given
from hypothesis import strategies as st

from data_prep.options import SentenceMethod
from data_prep.sentences import MAX_PARAGRAPH_CHARACTERS, has_rules, split_pieces, split_sentences


def test_wrapped_sentences_are_joined() -> None:
    text = "Dr. Smith came\nhome. He\r\nsat down.\n\nA title\n\n- an item\n"
    assert split_sentences(text, "sentencex", "en") == (
        ["Dr. Smith came home.", "He sat down.", "A title", "- an item"],
        0,
    )


@pytest.mark.parametrize("method", ["sentencex", "line"])
def test_ascii_white_space_alone_becomes_a_space(method: SentenceMethod) -> None:
    text = "\x00 a\t\x0b \x0cb\x00c\u00a0 \u2003d \x1c\n\n \x00 \n\n\x85"
    assert split_sentences(text, method, "en")[0] == ["a b c\u00a0 \u2003d \x1c", "\x85"]


@given(st.text(alphabet="ab.!? \n\t\r\x00\u00a0。x", max_size=60))
def test_nothing_but_white_space_is_lost(text: str) -> None:
    """Pieces may be blank, hold no NUL, and their sentences are the text's characters in order."""
    methods: tuple[SentenceMethod, ...] = ("sentencex", "line")
    for method in methods:
        pieces, _ = split_pieces(text, method, "en")
        sentences, _ = split_sentences(text, method, "en")
        assert not any("\0" in piece for piece in pieces)
        assert [
            " ".join(piece.replace("\u00a0", "_").split()) for piece in pieces if piece.strip(" \n\t")
        ] == [sentence.replace("\u00a0", "_") for sentence in sentences]
        assert "".join("".join(sentences).split()) == "".join(text.replace("\0", " ").split())


def test_one_long_paragraph_does_not_change_the_others() -> None:
    """Long documents go to sentencex paragraph by paragraph only where they must."""
    paragraphs = ["Dr. Smith came\nhome. He sat."] * 500
    short, _ = split_sentences("\n\n".join(paragraphs), "sentencex", "en")
    both, cuts = split_sentences("\n\n".join([*paragraphs, "y" * 10_000]), "sentencex", "en")
    assert short == ["Dr. Smith came home.", "He sat."] * 500
    assert both == [*short, "y" * MAX_PARAGRAPH_CHARACTERS, "y" * (10_000 - MAX_PARAGRAPH_CHARACTERS)]
    assert cuts == 1


def test_one_sentence_per_line() -> None:
    text = "Dr. Smith came home. He sat.\r\n\n  Second line\rThird"
    assert split_sentences(text, "line", "en")[0] == ["Dr. Smith came home. He sat.", "Second line", "Third"]


@pytest.mark.parametrize("method", ["sentencex", "line"])
@pytest.mark.parametrize(
    ("text", "num_cuts"), [("word " * 20_000, 12), ("x" * 50_000, 6), ("One. " * 9_000, 0)]
)
def test_long_text_is_cut_into_bounded_sentences(method: SentenceMethod, text: str, num_cuts: int) -> None:
    sentences, cuts = split_sentences(text, method, "en")
    assert max(map(len, sentences)) <= MAX_PARAGRAPH_CHARACTERS
    assert "".join("".join(sentences).split()) == "".join(text.split())
    assert cuts == num_cuts


def test_a_paragraph_without_spaces_reaches_sentencex_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of such a paragraph sentencex takes quadratic time: 1 MB in one piece takes most of a minute."""
    given: list[int] = []
    segment: Callable[[str, str], list[str]] = sentencex.segment

    def spy(language: str, text: str) -> list[str]:
        given.append(len(text))
        return segment(language, text)

    monkeypatch.setattr(sentencex, "segment", spy)
    sentences, cuts = split_sentences("我是一个学生，他是老师。" * 5_000, "sentencex", "zh")  # noqa: RUF001
    assert set(sentences) == {"我是一个学生，他是老师。"}  # noqa: RUF001
    assert (len(sentences), cuts) == (5_000, 0)
    assert max(given) <= MAX_PARAGRAPH_CHARACTERS


def test_languages_with_rules_are_told_from_others() -> None:
    """Those that sentencex 1.0 has a file of rules for, some that share the rules of another, and others."""
    own = "am ar bg bn ca da de el en es fi fr gu hi hy it ja kk kn ml mr my nl pa pl pt ru sk ta te uk"
    assert [code for code in (own + " gl gsw ab als cs").split() if not has_rules(code)] == []
    assert [code for code in ("xx", "klingon", "sv", "EN", "") if has_rules(code)] == []
