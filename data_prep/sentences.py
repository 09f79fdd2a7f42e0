"""A document's sentences, by `sentencex` (some 300 languages) or one per line, none of them ever long.

A sentence is what the splitter gives, with each run of ASCII white space (NUL counts as such) as one space and none
at the ends: line breaks inside a sentence are hard-wrapped prose, and a tokenizer may give "\\n" a token of its own.

`split_sentences` is this definition. The encoder takes `split_pieces`, the sentences as they lie in the text, and
leaves the white space to its scanner.
"""

import re

import sentencex

from data_prep.documents import text_cut
from data_prep.options import SentenceMethod

# Of a paragraph without spaces sentencex takes quadratic time (1 MB of Chinese: 47 s; in pieces of this
# size: 0.2 s), and a tokenizer's memory grows with the longest single text it is given.
MAX_PARAGRAPH_CHARACTERS = 1 << 13

# sentencex takes text of any language that it has no rules for as English, and does not say which these are. Each
# of these texts is cut otherwise by the rules of a language, or of those that share them.
_CUT_BY_RULES = (
    *("Sr. x", "г. х", "S. XX", "Mr. X", "a.m. X", "bzw. x", "5. januar", "κ. Χ", "doc. Novák"),  # noqa: RUF001
    *("esim. x", "sig. x", "M. Xyz", "np. x", "bijv. x", "cf. x", "bl.a. x", "ім. Х", "അ. ആ"),  # noqa: RUF001
    *("ഡോ. ക", "அ. ஆ", "م. X y", "বি. X y", "જી. X y", "आर. X y", "ಜಿ. X y", "၏. 5", "ਐਮ. X y", "జె. X y"),
)
# It has rules for them that cut as those of English do.
_LIKE_ENGLISH = frozenset({"en", "ja", "mr"})

_WHITE_SPACE = re.compile("[ \t\n\v\f\r\0]+")


def has_rules(language: str) -> bool:
    """Whether sentencex cuts text of the language by other rules than those of English, or means to."""
    return language in _LIKE_ENGLISH or any(
        sentencex.segment(language, text) != sentencex.segment("", text) for text in _CUT_BY_RULES
    )


def split_sentences(text: str, method: SentenceMethod, language: str) -> tuple[list[str], int]:
    """(sentences, none of them empty; number of cuts that fell inside a sentence)."""
    pieces, num_cuts = split_pieces(text, method, language)
    sentences = [_WHITE_SPACE.sub(" ", piece).strip(" ") for piece in pieces]
    return [sentence for sentence in sentences if sentence], num_cuts


def split_pieces(text: str, method: SentenceMethod, language: str) -> tuple[list[str], int]:
    """(the sentences with their white space, blank ones among them, none with NUL; number of cuts as above)."""
    if "\0" in text:
        text = text.replace("\0", " ")
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if method == "line":
        return _bounded(text.split("\n"))
    if len(text) <= MAX_PARAGRAPH_CHARACTERS or _longest(text) <= MAX_PARAGRAPH_CHARACTERS:
        return sentencex.segment(language, text), 0
    paragraphs, num_cuts = _bounded(text.split("\n\n"))
    return [piece for paragraph in paragraphs for piece in sentencex.segment(language, paragraph)], num_cuts


def _longest(text: str) -> int:
    """Characters of the longest paragraph."""
    return max(map(len, text.split("\n\n")))


def _bounded(parts: list[str]) -> tuple[list[str], int]:
    """The parts, those of over `MAX_PARAGRAPH_CHARACTERS` in pieces, and how many cuts were not at the end of a
    sentence."""
    if max(map(len, parts)) <= MAX_PARAGRAPH_CHARACTERS:
        return parts, 0
    pieces: list[str] = []
    num_cuts = 0
    for part in parts:
        start = 0
        while len(part) - start > MAX_PARAGRAPH_CHARACTERS:
            window = part[start : start + MAX_PARAGRAPH_CHARACTERS + 1]
            length, is_after_sentence = text_cut(window, MAX_PARAGRAPH_CHARACTERS)
            pieces.append(window[:length])
            num_cuts += not is_after_sentence
            start += length
        pieces.append(part[start:])
    return pieces, num_cuts
