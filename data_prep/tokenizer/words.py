"""Counting the words of a sample: what sentencepiece learns from, far smaller than the text."""

from collections import Counter
from collections.abc import Iterable, Mapping

_MAX_WORD_BYTES = 4096


def one_spaced(text: str) -> str:
    """The text as the store's sentences have it: ASCII white space and NUL are one space, none at the ends."""
    return b" ".join(text.encode("utf-8", "replace").replace(b"\0", b" ").split()).decode()


def count_words(texts: Iterable[str]) -> list[tuple[str, int]]:
    """Each word between ASCII white space with its count, in the order of the bytes.

    A "word" of more than 4,096 bytes (a paragraph of Chinese, a data URL) is cut, between characters.
    """
    counts: Counter[bytes] = Counter()
    for text in texts:
        counts.update(text.encode("utf-8", "replace").replace(b"\0", b" ").split())
    return sorted(_short_words(counts).items())


def _short_words(counts: Mapping[bytes, int]) -> dict[str, int]:
    short: dict[str, int] = {}
    for content, count in counts.items():
        word = content.decode()
        for part in [word] if len(content) <= _MAX_WORD_BYTES else _cut(word):
            short[part] = short.get(part, 0) + count
    return short


def _cut(word: str) -> list[str]:
    length = _MAX_WORD_BYTES // 4  # a character has at most four bytes
    return [word[start : start + length] for start in range(0, len(word), length)]
