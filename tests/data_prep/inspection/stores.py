"""Small stores of real text under each kind of tokenizer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from pretrain.data.store import Documents, SpecialIds, StoreLayout, StoreWriter, TokenStore

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD, UNK, CLS, SEP, MASK = range(5)
KINDS = ("wordpiece", "bpe", "unigram", "sentencepiece-bpe")
TEXT = "The quick brown fox jumps over the lazy dog. It didn't stop; walking, talking and jumping went on for 123 days!"


def make_tokenizer(kind: str, texts: Sequence[str] = (TEXT,)) -> Tokenizer:
    """Trained on the texts, with `SPECIAL` first; its encoding of them has no unknown token."""
    trainer: trainers.Trainer
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=SPECIAL, show_progress=False)
    elif kind == "bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=290, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        )
    elif kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=80, special_tokens=SPECIAL, unk_token="[UNK]", show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.BPE(unk_token="[UNK]", byte_fallback=True, fuse_unk=True))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        trainer = trainers.BpeTrainer(vocab_size=90, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(list(texts) * 3, trainer)
    return tokenizer


def write_store(
    path: Path,
    documents: Sequence[Sequence[str]],
    tokenizer: Tokenizer,
    *,
    heldout: Sequence[Sequence[str]] = (),
    block_tokens: int = 1 << 20,
    report: dict[str, object] | None = None,
) -> TokenStore:
    """Documents of sentences, in that order. A word starts at each token: no test asks here."""
    layout = StoreLayout(
        tokenizer.get_vocab_size(),
        SpecialIds(pad=PAD, unk=UNK, cls=CLS, sep=SEP, mask=MASK),
        (PAD, UNK, CLS, SEP, MASK),
        block_tokens=block_tokens,
    )
    with StoreWriter(path, layout) as writer:
        tokenizer.save(str(writer.tokenizer_path / "tokenizer.json"))
        for split, texts in (("train", documents), ("heldout", heldout)):
            for sentences in texts:
                ids = [tokenizer.encode(each, add_special_tokens=False).ids for each in sentences]
                writer.add(split, _document(ids))
        writer.finish(report or {})
    return TokenStore.open(path)


def _document(sentences: Sequence[Sequence[int]]) -> Documents:
    tokens = np.array([token for sentence in sentences for token in sentence])
    return Documents(
        tokens=tokens,
        sentence_lengths=np.array([len(each) for each in sentences], dtype=np.uint32),
        document_lengths=np.array([len(sentences)], dtype=np.uint32),
        word_starts=np.ones(len(tokens), dtype=np.bool_),
    )
