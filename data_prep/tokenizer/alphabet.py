"""The characters of a corpus that are common enough to be in a vocabulary."""

from collections.abc import Iterable, Iterator

import numpy as np
from tokenizers import normalizers

MIN_CHARACTER_SHARE = 1e-6
_NUM_CODE_POINTS = 0x110000
_CHUNK_CHARACTERS = 1 << 22


def choose_alphabet(counts: np.ndarray, normalizer: normalizers.Normalizer, limit: int) -> list[str]:
    """At most `limit` characters, the commonest after normalization, in code-point order; white space is none.

    `counts` is what `count_characters` gives, [0x110000].
    """
    normalized: dict[str, int] = {}
    for point in np.flatnonzero(counts).tolist():
        # Normalization acts on characters one by one (case, accents, control characters).
        for character in normalizer.normalize_str(chr(point)):
            if not character.isspace():
                normalized[character] = normalized.get(character, 0) + int(counts[point])
    enough = MIN_CHARACTER_SHARE * sum(normalized.values())
    common = [(count, character) for character, count in normalized.items() if count >= enough]
    common.sort(key=lambda item: (-item[0], item[1]))
    return sorted(character for _, character in common[:limit])


def count_characters(texts: Iterable[str]) -> np.ndarray:
    """How often each code point stands in the texts, [0x110000] int64."""
    counts = np.zeros(_NUM_CODE_POINTS, dtype=np.int64)
    for chunk in _chunks(texts):
        points = np.frombuffer(chunk.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        counts += np.bincount(points, minlength=_NUM_CODE_POINTS)
    return counts


def _chunks(texts: Iterable[str]) -> Iterator[str]:
    """The texts joined to some million characters, for which counting is fast."""
    part: list[str] = []
    size = 0
    for text in texts:
        part.append(text)
        size += len(text)
        if size >= _CHUNK_CHARACTERS:
            yield "".join(part)
            part, size = [], 0
    yield "".join(part)
