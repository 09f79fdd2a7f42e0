"""The rule that a tokenizer.json gives, and the reason where there is none."""

import json
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from data_prep.encode.rules import Rule, rule_for
from tests.data_prep.encode.kinds import bpe, llama, sentencepiece_bpe, unigram, wordpiece


def rule_of(tokenizer: Tokenizer) -> Rule:
    return rule_for(json.loads(tokenizer.to_str()))


def changed(tokenizer: Tokenizer, **parts: Any) -> Tokenizer:
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    return tokenizer


@pytest.mark.parametrize(
    "tokenizer",
    [
        changed(wordpiece(), pre_tokenizer=pre_tokenizers.Whitespace()),
        changed(wordpiece(), normalizer=normalizers.Replace("a b", "c")),
        changed(wordpiece(), normalizer=normalizers.Prepend("x")),
        changed(bpe(), pre_tokenizer=pre_tokenizers.ByteLevel(use_regex=False)),
        changed(bpe(), normalizer=normalizers.Replace(" ", "_")),
        changed(bpe(), pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel()])),
        changed(unigram(), pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="never")),
        changed(unigram(), pre_tokenizer=pre_tokenizers.Metaspace(replacement="_")),
        changed(unigram(), pre_tokenizer=pre_tokenizers.Metaspace(split=False)),
        changed(unigram(), normalizer=normalizers.Replace(Regex("[^a-z ]"), "")),
        changed(unigram(), normalizer=normalizers.Replace("''", " ")),
        changed(
            unigram(),
            pre_tokenizer=pre_tokenizers.Sequence(
                [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="first")]
            ),
        ),
        changed(llama(), normalizer=normalizers.Replace(" ", "\u2581")),
    ],
)  # fmt: skip
def test_other_pipelines_have_no_rule(tokenizer: Tokenizer) -> None:
    rule = rule_of(tokenizer)
    assert rule.cut is None
    assert rule.reason.startswith("no rule for ")


def test_merges_across_spaces() -> None:
    """A piece "o_t" would join the end of one word and the beginning of the next."""
    vocabulary = {"<unk>": 0, "\u2581": 1, "o": 2, "t": 3, "\u2581t": 4, "o\u2581t": 5}
    for merges, is_cut in (
        ([("\u2581", "t")], True),
        ([("\u2581", "t"), ("o", "\u2581t")], False),
    ):
        tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
        assert (rule_of(tokenizer).cut is not None) == is_cut
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        assert rule_of(tokenizer).cut is not None


def test_a_model_that_draws_at_random() -> None:
    tokenizer = bpe()
    tokenizer.model.dropout = 0.1
    assert rule_of(tokenizer).reason == "its model draws at random"


@pytest.mark.parametrize(
    ("token", "markers"),
    [
        (AddedToken("<x>", special=True), ()),
        (AddedToken("   ", normalized=False), ()),
        (AddedToken("|||EMAIL|||", normalized=False), (b"|||E",)),
        (AddedToken("two words", normalized=True), (b"two",)),
        (AddedToken(" ", normalized=False), None),
        (AddedToken("naïve", normalized=False), None),
    ],
)
def test_added_tokens(token: AddedToken, markers: tuple[bytes, ...] | None) -> None:
    tokenizer = bpe()
    tokenizer.add_tokens([token])
    rule = rule_of(tokenizer)
    assert (rule.markers if rule.cut is not None else None) == markers


def test_an_added_token_that_is_normalized_may_come_of_other_characters() -> None:
    """NFC makes "K" of the Kelvin sign; lower-casing makes "x" of "X"."""
    for normalizer, content, is_cut in (
        (normalizers.NFC(), "K1", False),
        (normalizers.NFC(), "x1", True),
        (normalizers.Lowercase(), "x1", False),
    ):
        tokenizer = changed(bpe(), normalizer=normalizer)
        tokenizer.add_tokens([AddedToken(content, normalized=True)])
        assert (rule_of(tokenizer).cut is not None) == is_cut


def test_special_tokens_are_no_obstacle() -> None:
    tokenizer = sentencepiece_bpe()
    tokenizer.add_special_tokens([AddedToken("<é> x", lstrip=True, normalized=True)])
    assert rule_of(tokenizer).markers == ()
    assert rule_of(tokenizer).cut is not None
