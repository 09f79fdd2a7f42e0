"""Byte-level BPE as GPT-2 and RoBERTa have it: every text has tokens, none is unknown.

Training is repeatable: the alphabet is the 256 bytes in a fixed order, and the trainer breaks ties by the
numbers of the pieces. A word is learned with the space before it, so that the first word of a sentence is
another one than inside it; what is trained on must therefore be sentences, as the store will have them.
"""

from collections.abc import Sequence

import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from data_prep.tokenizer.roles import MODEL_INPUT_NAMES, MODEL_MAX_LENGTH, around_sentences, special_token
from data_prep.tokenizer.words import one_spaced
from pretrain.errors import DataError

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_NUM_BYTES = 256
SMALLEST_VOCABULARY = len(SPECIAL_TOKENS) + _NUM_BYTES + 1
# What was seen once teaches the trainer nothing but the sample.
_MIN_PAIR_COUNT = 2


def train(texts: Sequence[str], vocab_size: int, *, lowercase: bool) -> transformers.PreTrainedTokenizerFast:
    """A vocabulary of at most `vocab_size` entries; raises DataError for texts without a word."""
    if not any(one_spaced(text) for text in texts):
        raise DataError("The corpus has no word to train a tokenizer on; check --input.")
    tokenizer = Tokenizer(models.BPE())
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=_MIN_PAIR_COUNT,
        special_tokens=[
            special_token(token, takes_space_before=token == SPECIAL_TOKENS[4]) for token in SPECIAL_TOKENS
        ],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(map(one_spaced, texts), trainer)
    cls, pad, sep, unk, mask = SPECIAL_TOKENS
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=True), around_sentences(tokenizer, cls, sep)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MODEL_MAX_LENGTH,
        model_input_names=list(MODEL_INPUT_NAMES),
        bos_token=cls,
        eos_token=sep,
        cls_token=cls,
        sep_token=sep,
        pad_token=pad,
        unk_token=unk,
        mask_token=special_token(mask, takes_space_before=True),
    )
