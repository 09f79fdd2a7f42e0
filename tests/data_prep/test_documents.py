"""Cutting long text and decoding bytes: nothing is lost, no character is broken, offsets are exact."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.documents import MAX_DOCUMENT_BYTES, Intake, bounded, byte_cut, repair, text_cut
from pretrain.errors import DataError


@given(st.text(alphabet=st.sampled_from("ab .\n。我é😀"), min_size=12, max_size=60), st.integers(8, 11))
def test_byte_cut_never_breaks_a_character(text: str, limit: int) -> None:
    content = text.encode()
    position = byte_cut(content, limit)
    assert 0 < position <= limit
    content[:position].decode()
    content[position:].decode()


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        ("One is. Two is. Three", 18, "One is. Two is. "),
        ("one two three four", 10, "one two "),
        ("abcdefghijklmnop", 10, "abcdefghij"),
        ("ab. defghijklmnop", 12, "ab. defghijk"),  # a mark in the first half would leave a tiny piece
    ],
)
def test_cuts_prefer_sentences_then_spaces(text: str, limit: int, expected: str) -> None:
    assert text[: text_cut(text, limit)[0]] == expected
    assert text[: byte_cut(text.encode(), limit)] == expected


def test_bounded_pieces_add_up() -> None:
    text = "Ein Satz über Bäume. " * 150_000
    intake = Intake()
    pieces = list(bounded(text, intake))
    assert "".join(pieces) == text
    assert max(len(piece.encode()) for piece in pieces) <= MAX_DOCUMENT_BYTES
    assert all(piece.endswith(". ") for piece in pieces)
    assert intake.documents_cut == len(pieces) - 1 == 3


def test_invalid_utf8_is_named_replaced_or_skipped() -> None:
    try:
        b"good \xff bad".decode()
    except UnicodeDecodeError as caught:
        error = caught
    intake = Intake()
    with pytest.raises(DataError, match=r"a\.txt is not valid UTF-8 at byte 105"):
        repair(error, "a.txt", 100, "error", intake)
    assert repair(error, "a.txt", 100, "replace", intake) == "good \N{REPLACEMENT CHARACTER} bad"
    assert repair(error, "a.txt", 100, "skip", intake) is None
    assert (intake.repaired, dict(intake.dropped)) == (1, {"invalid UTF-8": 1})


def test_tallies_add_up() -> None:
    one, other = Intake(documents_cut=1), Intake(bytes_read=7, repaired=2, duplicate_passages=3)
    assert [one.keep(text) for text in ("text", "", " \u3000\n")] == [True, False, False]
    other.drop("null text")
    other.drop("empty")
    one.add(other)
    dropped = Counter({"empty": 3, "null text": 1})
    assert one == Intake(7, documents=5, documents_cut=1, repaired=2, duplicate_passages=3, dropped=dropped)
