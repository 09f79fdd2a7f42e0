"""One object per optimizer step and one per validation, as the files of a run hold them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Any, NamedTuple


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
    mfu: (
        float | None
    )  # of the devices' dense bf16 peak, or of the one that was said; None where there is none
    global_batch: int
    data_wait: float | None = None  # share of `seconds` in which ranks waited for their data, mean over ranks
    skipped_because: str | None = None  # of a skipped step: overflow, spike or not finite
    noise: Mapping[str, float | int | None] | None = (
        None  # figures of the gradient noise scale, by name, if measured
    )


class Slowest(NamedTuple):
    """The rank with the most seconds of its own, and how many times those of the median rank they are."""

    rank: int
    own_seconds: float
    to_median: float


@dataclass(frozen=True)
class RanksRecord:
    """The ranks over the `steps` steps up to `step`, of `seconds` each; lists are by rank. Own seconds of a step are
    those in which a rank was busy itself or waited for its data; None where they are not known. Bytes are the most that
    a rank has had so far; `memory` is that of rank 0, by name."""

    step: int
    steps: int
    seconds: float
    own_seconds: Sequence[float | None]
    data_wait_seconds: Sequence[float]
    peak_bytes: Sequence[int]
    memory: Mapping[str, int]

    @property
    def slowest(self) -> Slowest | None:
        """None where a rank's own seconds are not known, or there is one rank."""
        return slowest(self.own_seconds)


def slowest(own_seconds: Sequence[float | None]) -> Slowest | None:
    """Of two middle ones the lower is the median: of two ranks, the faster."""
    known = [each for each in own_seconds if each is not None]
    if len(known) < len(own_seconds) or len(known) < 2:
        return None
    most, median = max(known), median_low(known)
    return Slowest(known.index(most), most, most / median) if median > 0 else None


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
