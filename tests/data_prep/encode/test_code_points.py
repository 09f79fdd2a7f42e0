"""Characters of the basic plane, alone and at either side of a word, against the tokenizers library."""

import random

import pytest

from tests.data_prep.encode.conftest import Subjects
from tests.data_prep.encode.kinds import LOOKED_UP
from tests.data_prep.encode.test_encoder import check

NOT_CHARACTERS = range(0xD800, 0xE000)  # surrogates
ALL_POINTS = [point for point in range(1, 0x10000) if point not in NOT_CHARACTERS]
IN_FULL = ("wordpiece", "roberta", "unigram", "albert", "sentencepiece_bpe", "llama")


def shapes(point: int) -> list[str]:
    character = chr(point)
    return [f"a {character} b", f"a{character} b", f"a {character}b", f"{character} b", f"a {character}"]


@pytest.mark.parametrize("name", LOOKED_UP)
def test_a_sample_of_characters(subjects: Subjects, name: str) -> None:
    points = random.Random(0).sample(ALL_POINTS, 400) + list(range(0x300)) + list(range(0x2000, 0x2070))
    subject = subjects(name)
    check(subject, subject.encoder, [text for point in points if point for text in shapes(point)])


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_FULL)
def test_every_character(subjects: Subjects, name: str, in_full: bool) -> None:
    """Or, not in full, every eighth, another one for each kind."""
    subject = subjects(name)
    points = ALL_POINTS if in_full else ALL_POINTS[IN_FULL.index(name) :: 8]
    for start in range(0, len(points), 8192):
        texts = [text for point in points[start : start + 8192] for text in shapes(point)]
        check(subject, subject.encoder, texts)
