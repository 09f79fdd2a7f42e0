"""One object per optimizer step and one per validation, as the files of a run hold them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step. Losses are in nats, per masked token and per sentence pair of the global batch;
    `samples`, `tokens` (real ones, no padding) and `global_batch` (rows) are those of this step; `cursor` is its
    first row."""

    step: int
    loss: float
    mlm_loss: float
    nsp_loss: float
    lr: float
    grad_norm: float
    loss_scale: float
    skipped: bool
    samples: int
    tokens: int
    cursor: list[int]
    seconds: float
    tokens_per_second: float
    mfu: float | None  # of the devices' dense bf16 peak; None where that is not known
    global_batch: int
    skipped_because: str | None = None  # of a skipped step: overflow, spike or not finite
    noise: Mapping[str, float | int | None] | None = (
        None  # figures of the gradient noise scale, by name, if measured
    )


@dataclass(frozen=True)
class EvalRecord:
    """One validation on the held-out split, after `step` steps; losses in nats.

    `mask_only_loss` counts the selected positions whose input was [MASK]: the others can be copied.
    `shuffled_mask_only_loss` is the same with the rest of each sample's text in random order.
    `unigram_entropy` is that of the held-out tokens: no model without context can be below it there.
    `nsp_accuracy_low` is the lower end of the 95% Wilson interval. `stores`: of a blend, the same figures of each
    store by its name; their entropy is of that store's text, and the whole's of all rows' text together.
    """

    step: int
    mlm_loss: float
    mask_only_loss: float
    shuffled_mask_only_loss: float | None
    unigram_entropy: float
    mlm_accuracy: float
    nsp_accuracy: float | None
    nsp_accuracy_low: float | None
    rows: int
    masked: int
    pairs: int
    stores: Mapping[str, Mapping[str, Any]] | None = None
