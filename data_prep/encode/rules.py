"""Which tokenizers have words that can be looked up one by one, and how these lie in the text.

Read from a tokenizer.json. A tokenizer qualifies if the ids of a sentence are the ids of its words one after the
other, where a word is found by looking at plain ASCII alone:

- WordPiece behind `BertPreTokenizer`: chunks between white space, punctuation by itself;
- `ByteLevel` with the pattern of GPT-2: letters, digits or anything else, each with the space before it;
- `Metaspace` that splits, for Unigram and BPE: chunks between white space;
- SentencePiece BPE that does not split, as Llama's, if no merge goes across a space: the same.

A normalizer must leave ASCII as it is (or fold its case, for WordPiece), and treat what lies between two spaces by
itself. What a chunk that is not plain ASCII does to its neighbours is not decided here but tried (`resolving`).
"""

import re
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers.normalizers import Precompiled

from data_prep.encode.kernels import ALONE, END, FIRST_RUN, WHITE, WHOLE, Cut

SPACE_MARK = "\u2581"
WHITE_SPACE = b" \t\n\v\f\r"
_PRINTABLE = "".join(map(chr, range(ord("!"), ord("~") + 1)))
_MAX_MARKERS = 16
_MARKER_BYTES = 4

_UNICODE_FORMS = frozenset({"NFC", "NFD", "NFKC", "NFKD"})
_GPT2_NORMALIZERS = _UNICODE_FORMS | {"Lowercase"}
_BERT_NORMALIZERS = _UNICODE_FORMS | {"BertNormalizer", "Lowercase", "StripAccents", "Strip"}
_METASPACE_NORMALIZERS = _UNICODE_FORMS | {
    "Lowercase",
    "StripAccents",
    "Strip",
    "Nmt",
    "Precompiled",
    "Replace",
}
# What they match in a sentence, where all spaces are single ones, is a space or white space of other kinds.
_WHITE_SPACE_PATTERNS = frozenset(
    {" {2,}", r"\s{2,}|[\n\r\t]", r"[\n\r\t]", r"\n", r"\s+", "  ", "\n", "\r", "\t"}
)
_QUOTE_PATTERNS = frozenset({"``", "''"})
# ASCII that NFC makes of other characters: the Kelvin sign, the Greek question mark, the varia.
_ASCII_FROM_NFC = frozenset("K;`")


@dataclass(frozen=True)
class Rule:
    """How words are cut, None where whole sentences must go through the tokenizer; `reason` says why, for people.

    A sentence with one of `markers` in it may hold an added token, and goes through the tokenizer as well.
    `model_prefix` is what stands before a word of plain ASCII when it reaches the model, otherwise unchanged; None
    where the normalizer may change ASCII.
    """

    cut: Cut | None
    reason: str
    has_space_mark: bool = False
    markers: tuple[bytes, ...] = ()
    model_prefix: str | None = None


def rule_for(tokenizer: dict[str, Any]) -> Rule:
    """The rule for the content of a tokenizer.json, as the tokenizers library of today writes it."""
    model = tokenizer["model"]
    if model.get("dropout") or model.get("alpha") or model.get("nbest_size"):
        return Rule(None, "its model draws at random")
    markers = _markers(tokenizer)
    if markers is None:
        return Rule(None, "it has added tokens that cannot be told from ordinary text")
    pre_tokenizers = parts_of(tokenizer["pre_tokenizer"])
    kinds = [part["type"] for part in pre_tokenizers]
    normalizers = parts_of(tokenizer["normalizer"])
    names = {part["type"] for part in normalizers}
    if kinds == ["BertPreTokenizer"] and model["type"] == "WordPiece":
        if names <= _BERT_NORMALIZERS:
            cut = _bert_cut(folds=any(map(_folds, normalizers)))
            return Rule(cut, "words of BERT", markers=markers, model_prefix="")
    elif kinds == ["ByteLevel"] and model["type"] == "BPE":
        if pre_tokenizers[0].get("use_regex", True) and names <= _GPT2_NORMALIZERS:
            cut = _gpt2_cut(
                folds="Lowercase" in names, space_before_first=pre_tokenizers[0]["add_prefix_space"]
            )
            return Rule(cut, "words of GPT-2", markers=markers, model_prefix="")
    elif _splits_at_spaces(pre_tokenizers) and model["type"] in ("Unigram", "BPE"):
        if names <= _METASPACE_NORMALIZERS and all(map(_is_harmless, normalizers)):
            prefix = SPACE_MARK if all(map(_keeps_ascii, normalizers)) else None
            return Rule(_chunk_cut(), "chunks between spaces", True, markers, prefix)
    elif _marks_spaces(pre_tokenizers, normalizers) and model["type"] == "BPE":
        if not _merges_across_spaces(model):
            return Rule(_chunk_cut(), "chunks between spaces", True, markers, model_prefix=SPACE_MARK)
        return Rule(None, "its merges go across spaces")
    return Rule(None, f"no rule for {'+'.join(sorted(names)) or 'no'} normalizer and {'+'.join(kinds) or 'no'} "
                f"pre-tokenizer of a {model['type']} model")  # fmt: skip


def parts_of(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, sequences taken apart."""
    if part is None:
        return []
    if part["type"] == "Sequence":
        inner = part.get("normalizers", part.get("pretokenizers", []))
        return [step for each in inner for step in parts_of(each)]
    return [part]


def _bert_cut(*, folds: bool) -> Cut:
    return Cut(
        _classes(_bert_class), folds, keeps_space=False, space_before_first=False, has_contractions=False
    )


def _gpt2_cut(*, folds: bool, space_before_first: bool) -> Cut:
    return Cut(_classes(_gpt2_class), folds, True, space_before_first, has_contractions=True)


def _chunk_cut() -> Cut:
    return Cut(_classes(lambda _: FIRST_RUN), False, False, space_before_first=False, has_contractions=False)


def _bert_class(character: str) -> int:
    return FIRST_RUN if character.isalnum() else ALONE


def _gpt2_class(character: str) -> int:
    if character.isalpha():
        return FIRST_RUN
    return FIRST_RUN + 1 if character.isdigit() else FIRST_RUN + 2


def _classes(class_of: Callable[[str], int]) -> np.ndarray:
    """uint8 [256], by byte; printable ASCII as `class_of` says."""
    classes = np.full(256, WHOLE, dtype=np.uint8)
    for character in _PRINTABLE:
        classes[ord(character)] = class_of(character)
    classes[list(WHITE_SPACE)] = WHITE
    classes[0] = END
    return classes


def _folds(normalizer: dict[str, Any]) -> bool:
    return normalizer["type"] == "Lowercase" or bool(normalizer.get("lowercase"))


def _is_harmless(normalizer: dict[str, Any]) -> bool:
    if normalizer["type"] != "Replace":
        return True
    pattern, content = next(iter(normalizer["pattern"].values())), normalizer["content"]
    if pattern in _QUOTE_PATTERNS:
        return bool(content == '"')
    if normalizer["pattern"] == {"String": " "}:
        return bool(content == SPACE_MARK)
    return pattern in _WHITE_SPACE_PATTERNS and content in (" ", SPACE_MARK)


def _keeps_ascii(normalizer: dict[str, Any]) -> bool:
    """Whether a word of printable ASCII stays as it is; of a precompiled map each character decides for itself."""
    if normalizer["type"] == "Precompiled":
        mapped = Precompiled(b64decode(normalizer["precompiled_charsmap"]))
        return all(mapped.normalize_str(character) == character for character in _PRINTABLE)
    if normalizer["type"] == "Replace":
        return next(iter(normalizer["pattern"].values())) not in _QUOTE_PATTERNS
    return normalizer["type"] in _UNICODE_FORMS | {"Strip", "StripAccents"}


def _splits_at_spaces(pre_tokenizers: list[dict[str, Any]]) -> bool:
    """Metaspace alone, or behind a split at white space; "first" would then mark the first word only."""
    kinds = [part["type"] for part in pre_tokenizers]
    if kinds not in (["Metaspace"], ["WhitespaceSplit", "Metaspace"]):
        return False
    metaspace = pre_tokenizers[-1]
    schemes = ("always", "first") if len(kinds) == 1 else ("always",)
    return (
        metaspace.get("split", True)
        and metaspace["replacement"] == SPACE_MARK
        and metaspace["prepend_scheme"] in schemes
    )


def _marks_spaces(pre_tokenizers: list[dict[str, Any]], normalizers: list[dict[str, Any]]) -> bool:
    """Each space becomes the mark and one stands before the text, which then goes to the model as a whole."""
    if not pre_tokenizers:
        return normalizers == [
            {"type": "Prepend", "prepend": SPACE_MARK},
            {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK},
        ]
    if [part["type"] for part in pre_tokenizers] != ["Metaspace"] or normalizers:
        return False
    return pre_tokenizers[0]["replacement"] == SPACE_MARK and pre_tokenizers[0]["prepend_scheme"] in (
        "always",
        "first",
    )


def _merges_across_spaces(model: dict[str, Any]) -> bool:
    """Whether a merge makes a piece with a mark behind something else, or the mark or whole words are special."""
    if model.get("ignore_merges") or SPACE_MARK not in model["vocab"]:
        return True
    if model.get("end_of_word_suffix") or model.get("continuing_subword_prefix"):
        return True
    across = re.compile(f"[^{SPACE_MARK}]{SPACE_MARK}")
    merged = (merge if isinstance(merge, str) else "".join(merge) for merge in model["merges"])
    return any(across.search(piece) for piece in merged)


def _markers(tokenizer: dict[str, Any]) -> tuple[bytes, ...] | None:
    """The first bytes of the added tokens that text can hold; None where that cannot be said.

    Special tokens are never looked for in text. A sentence has no two characters of white space side by side.
    """
    names = {part["type"] for part in parts_of(tokenizer["normalizer"])}
    markers: set[bytes] = set()
    for token in tokenizer["added_tokens"]:
        content: str = token["content"]
        if token["special"]:
            continue
        if token["normalized"] and not names <= {"NFC"}:
            return None
        if not content.isascii() or content.isspace():
            if content.isascii() and len(content) > 1:
                continue
            return None
        first = content.split()[0]
        if token["normalized"] and names and _ASCII_FROM_NFC & set(first):
            return None
        markers.add(first[:_MARKER_BYTES].encode())
    return tuple(sorted(markers)) if len(markers) <= _MAX_MARKERS else None
