"""How samples are made from a store: the options that, with the store and the seed, decide every row."""

from dataclasses import dataclass
from typing import Literal

from pretrain.errors import UsageError

# A draw of a mask is numbered `sample << POSITION_BITS | position`, so rows end here.
POSITION_BITS = 16
_MIN_SEQ_LEN = 8
_NSP_SPECIAL_TOKENS = 3  # [CLS] A [SEP] B [SEP]
_MLM_SPECIAL_TOKENS = 2  # [CLS] A [SEP]


@dataclass(frozen=True)
class SamplingOptions:
    """`seq_len`: tokens of a row, and the most a sample may have, special tokens included.

    `mask_probability`: the share of a sample's text tokens that is selected; of the selected,
    `mask_token_share` become [MASK], `random_token_share` a random token, and the rest stay.
    `short_sample_probability`: how often an NSP pair aims at a random shorter length.
    `window_blocks`: blocks of the store that are planned, paired, packed and shuffled together.
    """

    seq_len: int
    objective: Literal["nsp", "mlm"]
    packing: bool
    mask_probability: float = 0.15
    mask_token_share: float = 0.8
    random_token_share: float = 0.1
    short_sample_probability: float = 0.1
    window_blocks: int = 64

    def __post_init__(self) -> None:
        """Raises UsageError naming the option that is out of range."""
        if not _MIN_SEQ_LEN <= self.seq_len <= 1 << POSITION_BITS:
            raise UsageError(
                f"seq_len is {self.seq_len}: set it between {_MIN_SEQ_LEN} and {1 << POSITION_BITS} tokens."
            )
        if self.objective not in ("nsp", "mlm"):
            raise UsageError(f'objective is "{self.objective}": set it to "nsp" or "mlm".')
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

    @property
    def num_special_tokens(self) -> int:
        """Special tokens that each sample adds to its text."""
        return _NSP_SPECIAL_TOKENS if self.objective == "nsp" else _MLM_SPECIAL_TOKENS

    @property
    def max_text_tokens(self) -> int:
        """Text tokens of the longest sample."""
        return self.seq_len - self.num_special_tokens
