"""BERT's WordPiece, trained repeatably.

The trainer of the tokenizers library numbers its initial alphabet in the order of a randomly seeded hash map,
and breaks ties between merges by these numbers, so that two runs give two vocabularies. Here the alphabet is
chosen first, in a fixed order, with both forms of each character ("a" and "##a"); after that nothing is left
to chance. Only the vocabulary is taken from the trainer.
"""

from collections.abc import Sequence

import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from data_prep.tokenizer.alphabet import choose_alphabet, count_characters
from data_prep.tokenizer.roles import MODEL_INPUT_NAMES, MODEL_MAX_LENGTH, around_sentences
from pretrain.errors import DataError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_PREFIX = "##"


def train(texts: Sequence[str], vocab_size: int, *, lowercase: bool) -> transformers.BertTokenizer:
    """A vocabulary of at most `vocab_size` entries; raises DataError for texts without a word."""
    trainer_tokenizer = _bert_pipeline({}, lowercase)
    alphabet = choose_alphabet(count_characters(texts), trainer_tokenizer.normalizer, vocab_size // 4)
    if not alphabet:
        raise DataError("The corpus has no word to train a tokenizer on; check --input.")
    inner = [
        _PREFIX + character for character in alphabet if _goes_on_in_a_word(trainer_tokenizer, character)
    ]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL_TOKENS, *inner],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    trainer_tokenizer.train_from_iterator(texts, trainer)
    return from_vocabulary(trainer_tokenizer.get_vocab(with_added_tokens=True), lowercase=lowercase)


def from_vocabulary(vocabulary: dict[str, int], *, lowercase: bool) -> transformers.BertTokenizer:
    """BERT's tokenizer with these ids; the vocabulary has the five special tokens."""
    tokenizer = _bert_pipeline(vocabulary, lowercase)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.decoder = decoders.WordPiece(prefix=_PREFIX)
    tokenizer.post_processor = around_sentences(tokenizer, "[CLS]", "[SEP]")
    return transformers.BertTokenizer(
        tokenizer_object=tokenizer,
        do_lower_case=lowercase,
        model_max_length=MODEL_MAX_LENGTH,
        model_input_names=list(MODEL_INPUT_NAMES),
        pad_token=SPECIAL_TOKENS[0],
        unk_token=SPECIAL_TOKENS[1],
        cls_token=SPECIAL_TOKENS[2],
        sep_token=SPECIAL_TOKENS[3],
        mask_token=SPECIAL_TOKENS[4],
    )


def _bert_pipeline(vocabulary: dict[str, int], lowercase: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", continuing_subword_prefix=_PREFIX))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _goes_on_in_a_word(tokenizer: Tokenizer, character: str) -> bool:
    """Whether the character can stand inside a word (a comma or a Chinese character is a word of its own)."""
    around = tokenizer.normalizer.normalize_str(f"a{character}a")
    return len(tokenizer.pre_tokenizer.pre_tokenize_str(around)) == 1
