"""The tokenizer of a store: an existing one, or one trained on the corpus.

`roles`: what a store must know of a tokenizer. `training`: the four kinds (`wordpiece`, `bpe`, and the two of
`sentencepiece_training`). `loading`: folders and files. All end as a `PreTrainedTokenizerFast`, saved by
`save_pretrained`. Its classes are reached as attributes of `transformers`, which loads each one when it is
asked for, so that torch is imported only for an existing tokenizer.
"""

from data_prep.tokenizer.loading import load_tokenizer
from data_prep.tokenizer.roles import StoreTokenizer, describe
from data_prep.tokenizer.training import check_vocab_size, train_tokenizer, train_wordpiece
from data_prep.tokenizer.wordpiece import SPECIAL_TOKENS

__all__ = [
    "SPECIAL_TOKENS",
    "StoreTokenizer",
    "check_vocab_size",
    "describe",
    "load_tokenizer",
    "train_tokenizer",
    "train_wordpiece",
]
