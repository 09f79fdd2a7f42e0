"""A small tokenizer of each kind and pipeline, learned from made text, and what the library says about a sentence."""

import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from types import MappingProxyType

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from data_prep.tokenizer import train_tokenizer

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
MARK = "\u2581"
_STEMS = (
    "the a run talk token sentence don't it's we'll they've naïve café straße Москва говорит 你好 世界 नमस्ते 123 4,567 "
    ":-) -- [x]"
)


@lru_cache(maxsize=1)
def sample() -> tuple[str, ...]:
    """Some hundred sentences of words with endings, punctuation, accents and other scripts."""
    draw = random.Random(5)
    stems = _STEMS.split()
    endings = ("", "", "s", "ing", "ed", ".", ",", "!", "?)", "'s")
    return tuple(
        " ".join(draw.choice(stems) + draw.choice(endings) for _ in range(draw.randint(3, 12)))
        for _ in range(600)
    )


def _trained(kind: str, vocab_size: int, lowercase: bool) -> Tokenizer:
    trained = train_tokenizer(kind, sample(), vocab_size, lowercase=lowercase)  # type: ignore[arg-type]
    tokenizer: Tokenizer = trained.tokenizer.backend_tokenizer
    return tokenizer


def wordpiece() -> Tokenizer:
    return _trained("wordpiece", 300, True)


def cased_wordpiece() -> Tokenizer:
    """Control characters and accents stay."""
    tokenizer = _trained("wordpiece", 300, False)
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=False, handle_chinese_chars=False, strip_accents=False, lowercase=False
    )
    return tokenizer


def bpe() -> Tokenizer:
    return _trained("bpe", 500, False)


def lowercase_bpe() -> Tokenizer:
    return _trained("bpe", 500, True)


def roberta() -> Tokenizer:
    """A space before the first word, NFC, and special tokens that would take the spaces around them."""
    tokenizer = _trained("bpe", 500, False)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, rstrip=True, normalized=True)])
    return tokenizer


def with_added_tokens() -> Tokenizer:
    """As ModernBERT: runs of spaces, and names that are looked for in text."""
    tokenizer = bpe()
    tokenizer.add_tokens([AddedToken(" " * count, normalized=False) for count in (2, 3, 8)])
    tokenizer.add_tokens([AddedToken("[unused0]", normalized=False), AddedToken("@@ mail", lstrip=True)])
    return tokenizer


def unigram() -> Tokenizer:
    return _trained("unigram", 200, True)


def sentencepiece_bpe() -> Tokenizer:
    return _trained("sentencepiece-bpe", 300, False)


def xlm_roberta() -> Tokenizer:
    """A split at white space before the marks."""
    tokenizer = unigram()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    return tokenizer


def albert() -> Tokenizer:
    """The long row of normalizers."""
    tokenizer = unigram()
    steps = [
        normalizers.Replace("``", '"'),
        normalizers.Replace("''", '"'),
        normalizers.NFKD(),
        normalizers.StripAccents(),
        normalizers.Lowercase(),
        tokenizer.normalizer,
        normalizers.Replace(Regex(" {2,}"), " "),
    ]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    return tokenizer


def plain_metaspace() -> Tokenizer:
    """Spaces that come of other characters stay where they are."""
    tokenizer = sentencepiece_bpe()
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC()])
    return tokenizer


def llama() -> Tokenizer:
    """The whole text goes to the model at once; unknown characters become bytes."""
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=[*SPECIAL, *pieces], show_progress=False)
    tokenizer.train_from_iterator(sample(), trainer)
    content = tokenizer.to_str()
    tokenizer = Tokenizer.from_str(content)
    tokenizer.pre_tokenizer = None
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)])
    return tokenizer


def unsplit_metaspace() -> Tokenizer:
    tokenizer = llama()
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return tokenizer


def words_only() -> Tokenizer:
    """No rule, and no table of word starts. Its vocabulary holds "<mask>" as a word of plain text."""
    words = [*SPECIAL, "the", "or", "is", "Neither", "run", "talk"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def characters() -> Tokenizer:
    """No rule, no table, several tokens to a word."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=150, special_tokens=list(SPECIAL), show_progress=False)
    tokenizer.train_from_iterator(sample(), trainer)
    return tokenizer


def gpt4() -> Tokenizer:
    """A pattern of its own: no rule."""
    tokenizer = bpe()
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


Maker = Callable[[], Tokenizer]
LOOKED_UP: MappingProxyType[str, Maker] = MappingProxyType(
    {
        maker.__name__: maker
        for maker in (
            wordpiece, cased_wordpiece, bpe, lowercase_bpe, roberta, with_added_tokens, unigram, sentencepiece_bpe,
            xlm_roberta, albert, plain_metaspace, llama, unsplit_metaspace,
        )
    }
)  # fmt: skip
NOT_LOOKED_UP: MappingProxyType[str, Maker] = MappingProxyType(
    {maker.__name__: maker for maker in (words_only, characters, gpt4)}
)
ALL = MappingProxyType({**LOOKED_UP, **NOT_LOOKED_UP})


def plainly(tokenizer: Tokenizer, sentences: Sequence[str]) -> list[list[int]]:
    """The library's ids, sentence by sentence."""
    return [tokenizer.encode(sentence, add_special_tokens=False).ids for sentence in sentences]
