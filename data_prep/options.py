"""What a build is asked to do; everything here shapes the store, nothing here says how fast or where."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from pretrain.errors import UsageError

BadText = Literal["error", "replace", "skip"]
Format = Literal["auto", "text", "jsonl", "csv", "parquet", "arrow"]
Grouping = Literal["blank-line", "file", "line"]
SentenceMethod = Literal["sentencex", "line"]
TokenizerKind = Literal["wordpiece", "bpe", "unigram", "sentencepiece-bpe"]

DEFAULT_VOCAB_SIZE = 30_528  # BERT's 30,522, rounded up to a multiple of 64
DEMO_VOCAB_SIZE = 2_048  # small, so that two layers see each entry often within minutes
DEFAULT_BLOCK_TOKENS = 1 << 20
DEMO_BLOCK_TOKENS = 1 << 16  # some hundred blocks, so that a small corpus is shuffled too
DEFAULT_SHARD_TOKENS = 256_000_000
DEFAULT_SEGMENT_BYTES = 256 << 20
DEFAULT_HELDOUT = 0.01
DEMO_HELDOUT = 0.02  # some hundred sentence pairs, so that an accuracy on them says something
DEMO_BYTES = 28_000_000
TOKENIZER_SAMPLE_BYTES = 128_000_000


@dataclass(frozen=True)
class InputOptions:
    """Where documents come from: files (`paths`), a dataset of the Hugging Face Hub (`hub`), or the documentation
    of the installed Python packages (`demo`). `text_column` None: the column is found.

    `segment_bytes`: about so much input makes a segment, the unit in which a build is split over machines.
    """

    paths: tuple[str, ...] = ()
    hub: str | None = None
    hub_config: str | None = None
    hub_split: str = "train"
    hub_revision: str | None = None
    demo: bool = False
    demo_bytes: int = DEMO_BYTES
    format: Format = "auto"
    documents: Grouping = "blank-line"
    text_column: str | None = None
    on_bad_text: BadText = "error"
    segment_bytes: int = DEFAULT_SEGMENT_BYTES


@dataclass(frozen=True)
class TokenizerOptions:
    """An existing tokenizer (`path`), or a new one of `vocab_size` entries.

    `lowercase` None: WordPiece ignores case, the other kinds keep it.
    """

    path: str | None = None
    train: TokenizerKind = "wordpiece"
    vocab_size: int = DEFAULT_VOCAB_SIZE
    lowercase: bool | None = None
    sample_bytes: int = TOKENIZER_SAMPLE_BYTES

    @property
    def is_lowercase(self) -> bool:
        return self.train == "wordpiece" if self.lowercase is None else self.lowercase


@dataclass(frozen=True)
class BuildOptions:
    """Everything the content of a store depends on."""

    input: InputOptions
    tokenizer: TokenizerOptions
    sentences: SentenceMethod = "sentencex"
    language: str = "en"
    heldout: float = DEFAULT_HELDOUT
    block_tokens: int = DEFAULT_BLOCK_TOKENS
    shard_tokens: int = DEFAULT_SHARD_TOKENS

    def as_dict(self) -> dict[str, Any]:
        """The options by dotted name, as report.json records them and `--resume` compares them."""
        flat: dict[str, Any] = {}
        for name, value in asdict(self).items():
            if isinstance(value, dict):
                flat |= {f"{name}.{inner}": _plain(item) for inner, item in value.items()}
            else:
                flat[name] = value
        if self.tokenizer.path is not None:  # nothing is trained
            flat |= {
                f"tokenizer.{name}": None for name in ("train", "vocab_size", "lowercase", "sample_bytes")
            }
        return flat


def check_options(options: BuildOptions) -> None:
    """Raises UsageError for values that no build could honour."""
    source = options.input
    if bool(source.paths) + bool(source.hub) + source.demo != 1:
        raise UsageError("Give one of --input PATH, --hub NAME and --demo.")
    if source.demo and source.text_column is not None:
        raise UsageError(f"--text-column {source.text_column}: the demo corpus has no columns; drop it.")
    if not 0 <= options.heldout < 1:
        raise UsageError(
            f"--heldout is {options.heldout}; it is a share of the documents, from 0 to below 1."
        )
    positive = {
        "--vocab-size": options.tokenizer.vocab_size,
        "--tokenizer-sample-bytes": options.tokenizer.sample_bytes,
        "--block-tokens": options.block_tokens,
        "--shard-tokens": options.shard_tokens,
        "--demo-bytes": source.demo_bytes,
        "--segment-bytes": source.segment_bytes,
    }
    for name, value in positive.items():
        if value < 1:
            raise UsageError(f"{name} is {value}; it must be at least 1.")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
