"""How samples are made from a store: the options that, with the store and the seed, decide every row."""

from dataclasses import dataclass
from typing import Literal

from pretrain.errors import UsageError

# A draw of a mask is numbered `sample << POSITION_BITS | position`, so rows end here.
POSITION_BITS = 16
_MIN_SEQ_LEN = 8
_PAIR_SPECIAL_TOKENS = 3  # [CLS] A [SEP] B [SEP]
_MLM_SPECIAL_TOKENS = 2  # [CLS] A [SEP]


@dataclass(frozen=True)
class SamplingOptions:
    """`seq_len`: tokens of a row, and the most a sample may have, special tokens included.

    `mask_probability`: the share of a sample's text tokens that is selected; of the selected,
    `mask_token_share` become [MASK], `random_token_share` a random token, and the rest stay.
    `whole_words`: all tokens of a word are selected together, where they fit that share.
    `short_sample_probability`: how often a pair aims at a random shorter length.
    `window_blocks`: blocks of the store that are planned, paired, packed and shuffled together.
    `static_epochs`: 0 makes new pairs and masks in every epoch; N repeats those of the first N epochs for ever,
    in another order.
    """

    seq_len: int
    objective: Literal["nsp", "sop", "mlm"]
    packing: bool
    mask_probability: float = 0.15
    mask_token_share: float = 0.8
    random_token_share: float = 0.1
    whole_words: bool = False
    short_sample_probability: float = 0.1
    window_blocks: int = 64
    static_epochs: int = 0

    def __post_init__(self) -> None:
        """Raises UsageError naming the option that is out of range."""
        if not _MIN_SEQ_LEN <= self.seq_len <= 1 << POSITION_BITS:
            raise UsageError(
                f"seq_len is {self.seq_len}: set it between {_MIN_SEQ_LEN} and {1 << POSITION_BITS} tokens."
            )
        if self.objective not in ("nsp", "sop", "mlm"):
            raise UsageError(f'objective is "{self.objective}": set it to "nsp", "sop" or "mlm".')
        if not 0 < self.mask_probability <= 1:
            raise UsageError(
                f"mask_probability is {self.mask_probability}: set it above 0 and at most 1 (BERT has 0.15)."
            )
        for name in ("mask_token_share", "random_token_share", "short_sample_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} is {getattr(self, name)}: set it between 0 and 1.")
        if self.mask_token_share + self.random_token_share > 1:
            raise UsageError(
                f"mask_token_share {self.mask_token_share} and random_token_share {self.random_token_share} "
                "sum to more than 1: lower one of them."
            )
        if self.window_blocks < 1:
            raise UsageError(f"window_blocks is {self.window_blocks}: set it to 1 or more.")
        if self.static_epochs < 0:
            raise UsageError(f"static_epochs is {self.static_epochs}: set it to 0 or more.")

    @property
    def num_special_tokens(self) -> int:
        """Special tokens that each sample adds to its text."""
        return _MLM_SPECIAL_TOKENS if self.objective == "mlm" else _PAIR_SPECIAL_TOKENS

    @property
    def max_text_tokens(self) -> int:
        """Text tokens of the longest sample."""
        return self.seq_len - self.num_special_tokens
