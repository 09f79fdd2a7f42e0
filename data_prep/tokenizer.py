"""The tokenizer of a store: an existing Hugging Face folder, or a WordPiece vocabulary trained on the corpus.

Training is made repeatable. The trainer of the tokenizers library numbers its initial alphabet in the order
of a randomly seeded hash map, and breaks ties between merges by these numbers, so that two runs give two
vocabularies. Here the alphabet is chosen first, in a fixed order, with both forms of each character ("a"
and "##a"); after that nothing is left to chance. Only the vocabulary is taken from the trainer.

The classes are reached as attributes of `transformers`, which loads each one when it is asked for: torch is
imported only for an existing tokenizer.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from pretrain.data.store import SpecialIds
from pretrain.errors import DataError, UsageError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MODEL_MAX_LENGTH = 512
MAX_ALPHABET = 1000
MIN_CHARACTER_SHARE = 1e-6
_PREFIX = "##"


@dataclass(frozen=True)
class StoreTokenizer:
    """A tokenizer and what the store must know about it."""

    tokenizer: transformers.PreTrainedTokenizerFast
    vocab_size: int
    special_ids: SpecialIds
    all_special_ids: tuple[int, ...]
    trained_on_characters: int = 0  # 0 = not trained here

    def save(self, folder: Path) -> None:
        """tokenizer.json and tokenizer_config.json, as `transformers.AutoTokenizer` loads them."""
        self.tokenizer.save_pretrained(str(folder))


def load_tokenizer(path: Path) -> StoreTokenizer:
    """An existing folder; raises UsageError if it cannot be used for masked-token training."""
    if not path.is_dir():
        raise UsageError(f"--tokenizer {path} is not a folder; give a folder saved by `save_pretrained`.")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    except Exception as error:  # transformers raises whatever its parsers raise
        reason = str(error).strip().split("\n")[0]
        raise UsageError(
            f"--tokenizer {path} holds no tokenizer that transformers can load ({reason})."
        ) from None
    if not isinstance(tokenizer, transformers.PreTrainedTokenizerFast):
        raise UsageError(
            f"--tokenizer {path} has no tokenizer.json, and transformers cannot convert it to one."
        )
    return describe(tokenizer, path)


def train_wordpiece(texts: Sequence[str], vocab_size: int, *, lowercase: bool) -> StoreTokenizer:
    """A BERT WordPiece tokenizer of at most `vocab_size` entries; raises DataError for texts without a
    word."""
    trainer_tokenizer = _bert_pipeline({}, lowercase)
    alphabet = choose_alphabet(texts, trainer_tokenizer, min(MAX_ALPHABET, vocab_size // 4))
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
    vocabulary = trainer_tokenizer.get_vocab(with_added_tokens=True)
    tokenizer = transformers.BertTokenizer(
        tokenizer_object=_finished(_bert_pipeline(vocabulary, lowercase)),
        do_lower_case=lowercase,
        model_max_length=MODEL_MAX_LENGTH,
        pad_token=SPECIAL_TOKENS[0],
        unk_token=SPECIAL_TOKENS[1],
        cls_token=SPECIAL_TOKENS[2],
        sep_token=SPECIAL_TOKENS[3],
        mask_token=SPECIAL_TOKENS[4],
    )
    described = describe(tokenizer, Path("the trained tokenizer"))
    return replace(described, trained_on_characters=sum(map(len, texts)))


def choose_alphabet(texts: Iterable[str], tokenizer: Tokenizer, limit: int) -> list[str]:
    """The commonest characters after normalization, in code-point order; rare ones become [UNK]."""
    counts = np.zeros(0x110000, dtype=np.int64)
    for text in texts:
        points, times = np.unique(np.frombuffer(text.encode("utf-32-le"), dtype="<u4"), return_counts=True)
        counts[points] += times
    normalized: dict[str, int] = {}
    for point in np.flatnonzero(counts).tolist():
        # Normalization acts on characters one by one (case, accents, control characters).
        for character in tokenizer.normalizer.normalize_str(chr(point)):
            if not character.isspace():
                normalized[character] = normalized.get(character, 0) + int(counts[point])
    enough = MIN_CHARACTER_SHARE * sum(normalized.values())
    common = [(count, character) for character, count in normalized.items() if count >= enough]
    common.sort(key=lambda item: (-item[0], item[1]))
    return sorted(character for _, character in common[:limit])


def describe(tokenizer: transformers.PreTrainedTokenizerFast, path: Path) -> StoreTokenizer:
    """The roles of its special tokens; raises UsageError naming the first missing one."""
    ids = {
        "mask": tokenizer.mask_token_id,
        "cls": _first(tokenizer.cls_token_id, tokenizer.bos_token_id),
        "sep": _first(tokenizer.sep_token_id, tokenizer.eos_token_id),
        "pad": tokenizer.pad_token_id,
        "unk": tokenizer.unk_token_id,
    }
    for role, token_id in ids.items():
        if token_id is None:
            raise UsageError(
                f"--tokenizer {path} has no {role} token; pretraining needs mask, cls (or bos), "
                "sep (or eos), pad and unk."
            )
    return StoreTokenizer(
        tokenizer=tokenizer,
        vocab_size=max(tokenizer.get_vocab().values()) + 1,
        special_ids=SpecialIds(**ids),
        all_special_ids=tuple(sorted(set(tokenizer.all_special_ids) | set(ids.values()))),
    )


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)


def _bert_pipeline(vocabulary: dict[str, int], lowercase: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", continuing_subword_prefix=_PREFIX))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _finished(tokenizer: Tokenizer) -> Tokenizer:
    """With special tokens, decoder, and [CLS] ... [SEP] ... [SEP] around what is encoded."""
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.decoder = decoders.WordPiece(prefix=_PREFIX)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def _goes_on_in_a_word(tokenizer: Tokenizer, character: str) -> bool:
    """Whether the character can stand inside a word (a comma or a Chinese character is a word of its own)."""
    around = tokenizer.normalizer.normalize_str(f"a{character}a")
    return len(tokenizer.pre_tokenizer.pre_tokenize_str(around)) == 1
