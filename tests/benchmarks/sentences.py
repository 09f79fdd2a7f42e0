"""Sentences of plain text as the peers get them: found by the same library, and by none of our code."""

import sentencex


def split_sentences(text: str) -> list[str]:
    """The sentences of paragraphs that blank lines separate, each on one line, none empty."""
    paragraphs = text.split("\n\n")
    found = (" ".join(each.split()) for part in paragraphs for each in sentencex.segment("en", part))
    return [sentence for sentence in found if sentence]
