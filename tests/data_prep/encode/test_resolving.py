"""Which chunks are never looked up: against grapheme clusters as the `regex` package has them."""

import sys

import regex  # type: ignore[import-untyped]

from data_prep.encode.resolving import joins_neighbours

CLUSTER = regex.compile(r"\X")
CHARACTERS = [chr(point) for point in range(1, sys.maxunicode + 1) if not 0xD800 <= point < 0xE000]


def test_whatever_joins_a_space_is_seen() -> None:
    """Annex 29 of Unicode: a character that makes one cluster with the space before it, or after it."""
    for character in CHARACTERS:
        if len(CLUSTER.findall(f" {character}")) == 1:
            assert joins_neighbours(f"{character}x"), ascii(character)
        if len(CLUSTER.findall(f"{character} ")) == 1:
            assert joins_neighbours(f"x{character}"), ascii(character)


def test_white_space_at_an_end_is_seen() -> None:
    for character in filter(regex.compile(r"\s").match, CHARACTERS):
        assert joins_neighbours(f"{character}x") and joins_neighbours(f"x{character}"), ascii(character)


def test_letters_signs_and_whole_emoji_join_nothing() -> None:
    for chunk in (
        "é",
        "naïve",
        "你好",
        "世",
        "—",
        "“x”",
        "👍🏽",
        "❤\ufe0f",
        "नमस्ते",
        "שלום",
        "مرحبا",
        "e\u0301",
        "€5",
        "\u2581",
    ):
        assert not joins_neighbours(chunk), chunk
