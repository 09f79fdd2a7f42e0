"""The text for measuring: the same for the same seed, distinct throughout, equal in both forms."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.benchmarks import corpus
from tests.benchmarks.corpus import CorpusOptions, SentencePool, make_parts, open_corpus

SENTENCES = [f"Sentence {'abcdefghij'[i % 10]} number {i} says: {'wörd ' * (i % 7)}end." for i in range(300)]
POOL = SentencePool.of([sentence.encode() for sentence in SENTENCES])
OPTIONS = CorpusOptions(num_bytes=60_000, part_bytes=20_000, seed=3)


def words(text: str) -> list[str]:
    return text.split()


def test_same_seed_same_text() -> None:
    parts = list(make_parts(POOL, OPTIONS))
    assert parts == list(make_parts(POOL, OPTIONS))
    assert parts[0] != next(make_parts(POOL, replace(OPTIONS, seed=4)))
    assert len(set(parts)) == len(parts) == 3
    assert all(20_000 <= len(part) < 20_200 for part in parts[:2])
    assert 60_000 <= sum(map(len, parts)) < 60_200


def test_every_pass_has_each_sentence_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unaltered, a corpus as long as the pool is the pool in another order."""
    monkeypatch.setattr(corpus, "ALTERED_WORD_SHARE", 0.0)
    joined = sum(len(sentence.encode()) + 1 for sentence in SENTENCES)
    [text] = make_parts(POOL, CorpusOptions(num_bytes=joined, part_bytes=joined))
    assert sorted(words(text.decode())) == sorted(words(" ".join(SENTENCES)))
    assert words(text.decode()) != words(" ".join(SENTENCES))


def test_one_word_in_a_hundred_has_another_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    altered = [word for part in make_parts(POOL, OPTIONS) for word in words(part.decode())]
    monkeypatch.setattr(corpus, "ALTERED_WORD_SHARE", 0.0)
    plain = [word for part in make_parts(POOL, OPTIONS) for word in words(part.decode())]
    pairs = [pair for pair in zip(plain, altered, strict=True) if pair[0] != pair[1]]
    assert 0.0098 <= len(pairs) / len(plain) <= 0.0102
    for before, after in pairs:
        assert len(before) == len(after)
        changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
        assert len(changed) <= 2
        assert all(old.islower() == new.islower() and new.isascii() and new.isalpha() for old, new in changed)


def test_both_forms_have_the_same_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def collect(num_bytes: int) -> SentencePool:
        calls.append(num_bytes)
        return POOL

    monkeypatch.setattr(corpus, "collect_pool", collect)
    made = open_corpus(tmp_path, OPTIONS)
    num_documents = 0
    for text, jsonl in zip(made.text, made.jsonl, strict=True):
        documents = text.read_text(encoding="utf-8").removesuffix("\n\n").split("\n\n")
        assert [
            json.loads(line)["text"] for line in jsonl.read_text(encoding="utf-8").split("\n")[:-1]
        ] == documents
        num_documents += len(documents)
    assert made.num_documents == num_documents > 20
    assert made.num_bytes == sum(path.stat().st_size for path in made.text) == made.text_bytes(3)
    assert open_corpus(tmp_path, OPTIONS) == made
    assert len(calls) == 1
    assert open_corpus(tmp_path, replace(OPTIONS, seed=5)).digest != made.digest
