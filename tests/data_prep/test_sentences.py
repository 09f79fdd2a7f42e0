"""Sentences: wrapped prose stays whole, nothing is lost, nothing is long."""

from collections.abc import Callable

import pytest
import sentencex

from data_prep.options import SentenceMethod
from data_prep.sentences import MAX_PARAGRAPH_CHARACTERS, split_sentences


def test_wrapped_sentences_are_joined() -> None:
    text = "Dr. Smith came\nhome. He\r\nsat down.\n\nA title\n\n- an item\n"
    assert split_sentences(text, "sentencex", "en") == (
        ["Dr. Smith came home.", "He sat down.", "A title", "- an item"],
        0,
    )


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
