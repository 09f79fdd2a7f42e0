"""Ids, lengths and word starts against the tokenizers library, one sentence at a time."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from data_prep.clock import CpuClock
from data_prep.encode.encoder import EncodedSentences, Encoder, nul_ended
from data_prep.encode.kernels import PADDING
from data_prep.encode.library import encode_sentences
from data_prep.encode.resolving import Resolver
from data_prep.sentences import split_sentences
from tests.data_prep.encode.conftest import Subject, Subjects
from tests.data_prep.encode.kinds import ALL, LOOKED_UP, NOT_LOOKED_UP, plainly, sample

ODD = (
    "\u0301 \u0308 \u0345 \u0903 \u0e33 \u0eb3 \u20dd \ufe0f \uff9e "  # join the character before them
    "\u200b \u200c \u200d \u200e \u202e \u2060 \ufeff \u00ad \u061c \u0600 \u06dd "  # formats
    "\u0d4e \U000111c2 \U00011a84 \u0378 \ue000 \U000e0001 "  # prepended, unassigned, private
    "\u00a0 \u0085 \u1680 \u2003 \u2028 \u2029 \u202f \u3000 \u180e "  # white space
    "\x01 \x07 \x1b \x1c \x1f \x7f \x9f "  # controls
    "\u2581 \u2581\u2581 \u00a8 \u00b4 \u2017 \u203e \ufc5e \u037a \u1fbd \ufdfa \u212a \ufb01 \u2026 "
    "é e\u0301 ß İ Σ ς 你 。 か\u3099 한 \u1112\u1161\u11ab א ש\u05c1 ب ع\u064e न\u093f "
    "👍🏽 👨\u200d👩\u200d👧 🇩🇪 🇩 🏽 "
    "' 's 'S 't 're 've 'll ' '' `` `` - -- . ... ! 0 7 12 007 _ @ @@ "
    "mail # < > [ ] <s> </s> [MASK] <mask> [unk] [unused0] [unused "
    "a A aB the THE don't run Don't we'll they've run-ning x"
)
WORD = st.lists(st.sampled_from(ODD.split(" ")), min_size=1, max_size=5).map("".join)
ANY_WORD = st.one_of(
    WORD,
    st.sampled_from([word for sentence in sample()[:20] for word in sentence.split()]),
    st.text(max_size=6),
    st.sampled_from(
        ["x" * 15, "x" * 16, "x" * 17, "y" * 127, "y" * 128, "y" * 129, "é" * 64, "é" * 65, "." * 200]
    ),
)
SPACE = st.sampled_from([" ", " ", " ", "  ", "\n", "\t \r\n", "\v", "\f", "", " \u00a0"])
PIECE = st.lists(st.tuples(SPACE, ANY_WORD), max_size=8).map(lambda pairs: "".join(a + b for a, b in pairs))
PIECES = st.lists(PIECE.map(lambda piece: piece.replace("\0", "")), max_size=6)


def one_spaced(piece: str) -> str:
    """Written apart from the code under test."""
    for white in "\t\n\v\f\r":
        piece = piece.replace(white, " ")
    return " ".join(word for word in piece.split(" ") if word)


def encode(encoder: Encoder, pieces: Sequence[str]) -> EncodedSentences:
    return encoder.encode(nul_ended(list(pieces)) + bytes(PADDING), len(pieces), CpuClock())


def check(subject: Subject, encoder: Encoder, pieces: Sequence[str]) -> EncodedSentences:
    """Raises AssertionError naming the first sentence whose ids are not the library's."""
    encoded = encode(encoder, pieces)
    expected = plainly(subject.library, [one_spaced(piece) for piece in pieces])
    ends = np.cumsum(encoded.lengths)
    assert len(ends) == len(pieces)
    for piece, ids, end, length in zip(pieces, expected, ends, encoded.lengths, strict=True):
        assert encoded.ids[end - length : end].tolist() == ids, ascii(piece)
    assert len(encoded.word_starts) == len(encoded.ids) == (ends[-1] if len(ends) else 0)
    return encoded


@pytest.mark.parametrize("name", ALL)
def test_equals_the_library_on_odd_text(subjects: Subjects, name: str) -> None:
    subject = subjects(name)

    @settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
    @given(PIECES)
    def equals(pieces: list[str]) -> None:
        check(subject, subject.encoder, pieces)

    equals()


@pytest.mark.parametrize("name", ALL)
def test_which_ones_are_looked_up(subjects: Subjects, name: str) -> None:
    assert (subjects(name).encoder.rule.cut is not None) == (name in LOOKED_UP)
    assert (name in NOT_LOOKED_UP) == subjects(name).encoder.rule.reason.startswith("no rule")


@pytest.mark.parametrize("name", LOOKED_UP)
def test_ordinary_text_does_not_need_whole_sentences(
    subjects: Subjects, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words of any script, accents and punctuation are looked up: the library sees words alone."""
    subject = subjects(name)
    whole: list[str] = []

    def spy(library: Tokenizer, sentences: list[str]) -> tuple[np.ndarray, np.ndarray]:
        whole.extend(sentences)
        return encode_sentences(library, sentences)

    monkeypatch.setattr("data_prep.encode.encoder.encode_sentences", spy)
    encode(subject.encoder, sample()[:200])
    assert whole == []


@pytest.mark.parametrize("name", LOOKED_UP)
def test_what_was_met_before_and_beside_does_not_matter(subjects: Subjects, name: str) -> None:
    """Another order, batches of one, a cache for seven words that is emptied all the time, one that grows."""
    subject = subjects(name)
    draw = random.Random(3)
    odd = ODD.split(" ")
    pieces = list(sample()[:60]) + [
        " ".join("".join(draw.choices(odd, k=draw.randint(1, 4))) for _ in range(5)) for _ in range(60)
    ]
    long_words = [f"{'long' * 10}{number} {'wörd' * 5}{number}" for number in range(300)]
    pieces += [" ".join(long_words[:40]), *long_words]
    first = check(subject, subject.new_encoder(), pieces)
    for max_words in (7, 300):
        encoder = subject.new_encoder(max_words)
        for _ in range(2):
            again = encode(encoder, pieces)
            assert np.array_equal(again.ids, first.ids)
            assert np.array_equal(again.lengths, first.lengths)
            assert np.array_equal(again.word_starts, first.word_starts)
        draw.shuffle(shuffled := list(pieces))
        for piece in shuffled[:50]:
            check(subject, encoder, [piece])


def many_words() -> list[str]:
    draw = random.Random(1)
    words = [f"w{''.join(draw.choices('abcdefgh', k=draw.randint(3, 30)))}" for _ in range(3_000)]
    return [" ".join(words[start : start + 20]) for start in range(0, len(words), 20)]


def test_a_cache_grows_with_its_words_and_keeps_them(
    subjects: Subjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_prep.encode.cache._FIRST_WORDS", 50)
    subject = subjects("bpe")
    encoder = subject.new_encoder()
    check(subject, encoder, many_words())
    monkeypatch.setattr(Resolver, "resolve", None)  # nothing is new any more
    check(subject, encoder, many_words())


def test_a_cache_stays_within_its_bound(subjects: Subjects) -> None:
    """Full at 200 words, again and again: a word takes some 100 bytes."""
    encoder = subjects("bpe").new_encoder(200)
    for _ in range(5):
        encode(encoder, many_words())
    assert encoder.cache is not None
    assert 200 * 48 < encoder.cache.num_bytes < 200 * 300


def test_word_starts_by_hand(subjects: Subjects) -> None:
    """Joining the tokens from one start to the next spells the words."""
    cases = {
        "wordpiece": ("Don't re-run!", ["don", "'", "t", "re", "-", "run", "!"]),
        "bpe": ("don't run, 'talk'", ["don't", "Ġrun,", "Ġ'talk'"]),
        "roberta": ("don't run", ["Ġdon't", "Ġrun"]),
        "unigram": ("don't run, talk", ["▁don't", "▁run,", "▁talk"]),
        "llama": ("the sentence runs", ["▁the", "▁sentence", "▁runs"]),
        "characters": ("the ruktaln, talking", ["the", "ruktaln", ",", "talking"]),
        "words_only": ("the run is", ["the", "run", "is"]),
    }
    for name, (text, words) in cases.items():
        subject = subjects(name)
        encoded = encode(subject.encoder, ["", text, " "])
        assert encoded.lengths.tolist()[::2] == [0, 0]
        pieces = [str(subject.library.id_to_token(token)).replace("##", "") for token in encoded.ids.tolist()]
        spelled = [
            "".join(word) for word in np.split(np.array(pieces), np.flatnonzero(encoded.word_starts)[1:])
        ]
        assert spelled == words, name


@pytest.mark.parametrize("name", LOOKED_UP)
def test_word_starts_are_the_same_word_by_word_and_whole(subjects: Subjects, name: str) -> None:
    """A sentence of a long word goes through the library as a whole; its other words start as they always do."""
    subject = subjects(name)
    sentence = "don't talk, run-ning café"
    looked_up = encode(subject.encoder, [sentence]).word_starts
    whole = encode(subject.encoder, [f"{sentence} {'y' * 500}"]).word_starts
    assert whole[: len(looked_up)].tolist() == looked_up.tolist()
    assert looked_up[0]


@pytest.mark.parametrize("name", ALL)
def test_documents_of_text(subjects: Subjects, name: str) -> None:
    """From text to ids by the definition of a sentence, with NUL in it."""
    subject = subjects(name)
    text = "One\x00two. Mr. Smith\r\nruns \x0b home.\n\n\n don't [MASK] it!\n\f\n" + " ".join(sample()[:5])
    sentences, _ = split_sentences(text, "sentencex", "en")
    check(subject, subject.encoder, sentences)
    assert all("\0" not in sentence and "  " not in sentence for sentence in sentences)
