"""Unigram and BPE vocabularies, learned by the `sentencepiece` package from the counts of words.

sentencepiece itself cuts text into words and counts them before it learns, so that words with counts give the
same vocabulary in less time; and what it drops in silence from text (long lines, NUL, a character that it
keeps for itself) cannot take a whole line with it. Rare characters are left out here and the rest must all be
in the vocabulary: one rule for every kind of tokenizer (`alphabet`).

The scores depend on the number of threads in their last digits, so that the number is fixed.
"""

import io
from collections.abc import Sequence
from typing import Literal

import numpy as np
import sentencepiece
import transformers
from sentencepiece import sentencepiece_model_pb2 as messages
from tokenizers import normalizers

from data_prep.tokenizer.alphabet import choose_alphabet, count_characters
from data_prep.tokenizer.sentencepiece_model import SPACE, convert_model, parse_model
from data_prep.tokenizer.words import count_words
from pretrain.errors import DataError, UsageError

ModelType = Literal["unigram", "bpe"]

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_NUM_THREADS = 4
_RESERVED = "\u2585"  # sentencepiece writes it for characters left out, and drops what holds it
_NO_LOG = 3  # below a fatal error nothing is logged; errors come as exceptions


def train(
    texts: Sequence[str], vocab_size: int, model_type: ModelType, *, lowercase: bool
) -> transformers.PreTrainedTokenizerFast:
    """A vocabulary of at most `vocab_size` pieces over NFKC text; fewer where the corpus has no more.

    Raises:
        DataError: the texts have no word.
        UsageError: the characters alone do not fit into `vocab_size`.
    """
    rule = "nmt_nfkc_cf" if lowercase else "nmt_nfkc"
    words = _known_words(texts, vocab_size, rule)
    if not words:
        raise DataError("The corpus has no word to train a tokenizer on; check --input.")
    model = io.BytesIO()
    pad, unk, cls, sep, mask = SPECIAL_TOKENS
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(words),
            input_format="tsv",
            max_sentence_length=1 << 20,
            shuffle_input_sentence=False,
            model_writer=model,
            model_type=model_type,
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            normalization_rule_name=rule,
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            pad_piece=pad,
            unk_piece=unk,
            bos_piece=cls,
            eos_piece=sep,
            control_symbols=[mask],
            num_threads=_NUM_THREADS,
            minloglevel=_NO_LOG,
        )
    except RuntimeError as error:
        reason = str(error).partition("] ")[2] or str(error)
        raise UsageError(
            f"--vocab-size {vocab_size} gives no vocabulary of this corpus (sentencepiece: {reason}); "
            "use a larger one."
        ) from None
    return convert_model(parse_model(model.getvalue(), "the trained model"), "the trained model").tokenizer


def _known_words(texts: Sequence[str], vocab_size: int, rule: str) -> list[str]:
    """Lines "word, tab, count" without rare characters; a word is cut where it had one."""
    left_out = {ord(character): " " for character in _characters_left_out(texts, vocab_size, rule)}
    counted = count_words(texts)
    if not counted:
        return []
    words = "\n".join(word for word, _ in counted).translate(left_out).split("\n")
    counts = [count for _, count in counted]
    return [f"{word}\t{count}" for word, count in zip(words, counts, strict=True) if not word.isspace()]


def _characters_left_out(texts: Sequence[str], vocab_size: int, rule: str) -> list[str]:
    counts = count_characters(texts)
    normalizer = normalizers.Precompiled(_characters_map(rule))
    alphabet = set(choose_alphabet(counts, normalizer, vocab_size // 4)) - {SPACE, _RESERVED}
    return [
        chr(point)
        for point in np.flatnonzero(counts).tolist()
        if any(not form.isspace() and form not in alphabet for form in normalizer.normalize_str(chr(point)))
    ]


def _characters_map(rule: str) -> bytes:
    """The table that sentencepiece compiles for a rule of normalization, as its models carry it."""
    spec = messages.NormalizerSpec()
    spec.ParseFromString(sentencepiece.SentencePieceNormalizer(rule_name=rule).serialized_normalizer_spec())
    return bytes(spec.precompiled_charsmap)
