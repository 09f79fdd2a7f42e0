"""Documents of texts, against the tokenizers library called plainly, sentence by sentence."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Encoding, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from data_prep.clock import CpuClock
from data_prep.encode import EncoderSettings, encode_documents
from data_prep.heldout import document_hash
from data_prep.sentences import split_sentences
from data_prep.tokenizer import StoreTokenizer, describe, train_wordpiece

TEXTS = (
    "Don't panic: the [MASK] isn't a [CLS] token, [SEP]arated. Neither is <mask> or <s>. It's text!",
    "Unbelievably convoluted re-tokenization_of snake_case(words), e.g. naïve ones.\n\nSecond paragraph.",
    "\x00\x01",
    "One sentence",
    "中文也可以。 And \U0001f600 too.",
)


def wordpiece() -> StoreTokenizer:
    return train_wordpiece(TEXTS * 5, 160, lowercase=True)


def byte_level_bpe() -> StoreTokenizer:
    """As RoBERTa's: words begin with their space, and one added token that is not special."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS * 5, trainer)
    backend.add_tokens([AddedToken("snake_case", normalized=False)])
    roles = dict(
        zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), special, strict=True)
    )
    return describe(PreTrainedTokenizerFast(tokenizer_object=backend, **roles), Path("bpe"))


def word_level() -> StoreTokenizer:
    """Its vocabulary holds "<mask>" as a word, which plain text can therefore produce."""
    words = ["<pad>", "<unk>", "<s>", "</s>", "<mask>", "the", "or", "is", "Neither"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    roles = dict(zip(("pad_token", "unk_token", "bos_token", "eos_token", "mask_token"), words, strict=False))
    return describe(PreTrainedTokenizerFast(tokenizer_object=backend, **roles), Path("words"))


def begins_word(make: Callable[[], StoreTokenizer], encoding: Encoding, i: int) -> bool:
    if make is wordpiece:
        return not encoding.tokens[i].startswith("##")
    if make is byte_level_bpe:
        return encoding.tokens[i].startswith("Ġ")
    return encoding.word_ids[i] != encoding.word_ids[i - 1]


def settings_for(tokenizer: StoreTokenizer, folder: Path) -> EncoderSettings:
    tokenizer.save(folder)
    unk = tokenizer.special_ids.unk
    return EncoderSettings(
        tokenizer_file=folder / "tokenizer.json",
        vocab_size=tokenizer.vocab_size,
        unk_id=unk,
        forbidden=tuple(set(tokenizer.all_special_ids) - {unk}),
        token_dtype="<u2",
        sentences="sentencex",
        language="en",
    )


@pytest.mark.parametrize("make", [wordpiece, byte_level_bpe, word_level])
def test_tokens_lengths_and_word_starts(tmp_path: Path, make: Callable[[], StoreTokenizer]) -> None:
    tokenizer = make()
    settings = settings_for(tokenizer, tmp_path)
    encoded = encode_documents(settings, TEXTS, CpuClock())
    plain = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    plain.encode_special_tokens = True
    ids, starts, sentence_lengths, document_lengths = [], [], [], []
    for text in TEXTS:
        encodings = [
            plain.encode(sentence, add_special_tokens=False)
            for sentence in split_sentences(text, "sentencex", "en")[0]
        ]
        encodings = [encoding for encoding in encodings if encoding.ids]
        if encodings:
            document_lengths.append(len(encodings))
        for encoding in encodings:
            sentence_lengths.append(len(encoding.ids))
            ids += [settings.unk_id if token in settings.forbidden else token for token in encoding.ids]
            starts += [i == 0 or begins_word(make, encoding, i) for i in range(len(encoding))]
    documents = encoded.hashed.documents
    assert documents.tokens.dtype == np.dtype("<u2")
    assert documents.tokens.tolist() == ids
    assert documents.sentence_lengths.tolist() == sentence_lengths
    assert documents.document_lengths.tolist() == document_lengths
    assert documents.word_starts.tolist() == starts
    assert 0 < sum(starts) <= len(starts)
    assert encoded.num_texts - encoded.num_without_tokens == len(document_lengths)


@pytest.mark.parametrize("make", [wordpiece, byte_level_bpe, word_level])
def test_no_special_id_but_the_unknown_one(tmp_path: Path, make: Callable[[], StoreTokenizer]) -> None:
    settings = settings_for(make(), tmp_path)
    encoded = encode_documents(settings, TEXTS, CpuClock())
    assert not set(encoded.hashed.documents.tokens.tolist()) & set(settings.forbidden)
    # In the first two, "[MASK]" and "<mask>" are spelled out of ordinary tokens; nothing had to be replaced.
    assert encoded.num_special_replaced == (1 if make is word_level else 0)


def test_documents_without_tokens_go_and_hashes_stay_aligned(tmp_path: Path) -> None:
    settings = settings_for(wordpiece(), tmp_path)
    encoded = encode_documents(settings, TEXTS, CpuClock())
    assert encoded.num_without_tokens == 1
    kept = [text for text in TEXTS if text != "\x00\x01"]
    assert encoded.hashed.hashes.tolist() == [document_hash(text) for text in kept]
    alone = encode_documents(settings, ("\x00\x01",), CpuClock())
    assert len(alone.hashed.documents.tokens) == len(alone.hashed.hashes) == 0


def test_word_starts_spell_the_words(tmp_path: Path) -> None:
    """A hand-made case: joining the tokens from one start to the next gives the pre-tokenized words."""
    tokenizer = wordpiece()
    encoded = encode_documents(settings_for(tokenizer, tmp_path), ("Don't re-tokenization!",), CpuClock())
    pieces = tokenizer.tokenizer.convert_ids_to_tokens(encoded.hashed.documents.tokens.tolist())
    words = np.split(np.array(pieces), np.flatnonzero(encoded.hashed.documents.word_starts)[1:])
    joined = ["".join(word).replace("##", "") for word in words]
    assert joined == ["don", "'", "t", "re", "-", "tokenization", "!"]
