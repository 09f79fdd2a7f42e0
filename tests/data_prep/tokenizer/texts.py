"""What the tests train on: sentences full of ties, and real English from Python's own manual."""

from pydoc_data.topics import topics

from data_prep.options import TokenizerKind

WORDS = (
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "lazy",
    "dogs",
    "seven",
    "quantum",
    "wizards",
    "café",
)
TIES = tuple(" ".join(WORDS[(i * j) % len(WORDS)] for j in range(1, 9)) + f". Nr {i}!" for i in range(1, 300))
MANUAL = tuple(line.strip() for topic in sorted(topics) for line in topics[topic].split("\n") if line.strip())
KINDS: tuple[TokenizerKind, ...] = ("wordpiece", "bpe", "unigram", "sentencepiece-bpe")
