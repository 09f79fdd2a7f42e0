"""A document's sentences, by `sentencex` (some 300 languages) or one per line, none of them ever long.

Line breaks inside a sentence (hard-wrapped prose) become spaces: a tokenizer may give "\\n" a token of its
own.
"""

import sentencex

from data_prep.documents import text_cut
from data_prep.options import SentenceMethod

# Of a paragraph without spaces sentencex takes quadratic time (1 MB of Chinese: 47 s; in pieces of this
# size: 0.2 s), and a tokenizer's memory grows with the longest single text it is given.
MAX_PARAGRAPH_CHARACTERS = 1 << 13


def split_sentences(text: str, method: SentenceMethod, language: str) -> tuple[list[str], int]:
    """(sentences without surrounding white space, number of cuts that fell inside a sentence)."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    sentences: list[str] = []
    num_cuts = 0
    for paragraph in text.split("\n" if method == "line" else "\n\n"):
        pieces, cuts = _bounded(paragraph)
        num_cuts += cuts
        for piece in pieces:
            found = [piece] if method == "line" else sentencex.segment(language, piece)
            sentences += [_one_line(sentence) for sentence in found if not sentence.isspace()]
    return [sentence for sentence in sentences if sentence], num_cuts


def _bounded(paragraph: str) -> tuple[list[str], int]:
    """Pieces of at most `MAX_PARAGRAPH_CHARACTERS`, and how many cuts were not at the end of a sentence."""
    if len(paragraph) <= MAX_PARAGRAPH_CHARACTERS:
        return [paragraph], 0
    pieces: list[str] = []
    num_cuts, start = 0, 0
    while len(paragraph) - start > MAX_PARAGRAPH_CHARACTERS:
        window = paragraph[start : start + MAX_PARAGRAPH_CHARACTERS + 1]
        length, is_after_sentence = text_cut(window, MAX_PARAGRAPH_CHARACTERS)
        pieces.append(window[:length])
        num_cuts += not is_after_sentence
        start += length
    pieces.append(paragraph[start:])
    return pieces, num_cuts


def _one_line(sentence: str) -> str:
    return " ".join(sentence.split()) if "\n" in sentence.strip() else sentence.strip()
