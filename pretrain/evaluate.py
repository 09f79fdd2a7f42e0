"""Validation on the held-out split: the same rows, masks and pairs every time, whatever the cut.

Of a blend, each store's held-out rows are scored by themselves; the figures of the whole are over all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from pretrain.backends.base import Backend
from pretrain.data.batches import Batch
from pretrain.data.store import StoreSplit
from pretrain.data.stream import StepRows
from pretrain.errors import StoppedBySignal
from pretrain.metrics import EvalRecord
from pretrain.rng import key
from pretrain.signals import StopRequest
from pretrain.watch import Activity

ENTROPY_TOKENS = 10_000_000  # of all held-out text, at most
WILSON_Z = 1.96


@dataclass(frozen=True)
class HeldoutRows:
    """Held-out rows of one store, and how often each token is found in its held-out text, [vocab_size].

    `name`: of a store in a blend; the figures of any other need none.
    """

    name: str | None
    rows: StepRows
    token_shares: np.ndarray


@dataclass(frozen=True)
class Evaluator:
    """The held-out rows and how to score them; `micro_batch` rows per rank and forward pass."""

    parts: Sequence[HeldoutRows]
    micro_batch: int
    rank: int
    world_size: int
    device: torch.device
    seed: int
    stop: StopRequest = field(default_factory=StopRequest)
    activity: Activity = field(default_factory=Activity)

    def run(self, backend: Backend, step: int, *, shuffled: bool) -> EvalRecord:
        """Scores all rows; collective. With `shuffled` a second time, each sample's context in random order.

        Raises StoppedBySignal on every rank if one was asked to stop; the record is lost.
        """
        shuffle_key = key(self.seed, "shuffled context") if shuffled else None
        scores = [self._part_scores(backend, part.rows, shuffle_key) for part in self.parts]
        weights = [part.rows.num_rows for part in self.parts]
        shares = np.average([part.token_shares for part in self.parts], axis=0, weights=weights)
        stores = {
            part.name: _figures(each, part.token_shares)
            for part, each in zip(self.parts, scores, strict=True)
            if part.name is not None
        }
        return EvalRecord(step=step, **_figures(_added(scores), shares), stores=stores or None)

    def _part_scores(self, backend: Backend, rows: StepRows, shuffle_key: int | None) -> dict[str, float]:
        """Sums over the rows of one store, those with shuffled context by "shuffled_" before their name."""
        sums = self._scored(backend, rows, None) | {"rows": float(rows.num_rows)}
        if shuffle_key is not None:
            again = self._scored(backend, rows, shuffle_key)
            sums |= {f"shuffled_{name}": value for name, value in again.items()}
        return sums

    def _scored(self, backend: Backend, rows: StepRows, shuffle_key: int | None) -> dict[str, float]:
        """Sums over all rows. A rank that has run out of rows joins the last pass without counting it."""
        totals: dict[str, float] = {}
        starts = range(0, rows.num_rows, self.micro_batch)
        for first in range(0, len(starts), self.world_size):
            self.activity.now(
                f"validating rows {first * self.micro_batch + 1} and following of {rows.num_rows}"
            )
            self._agree_to_go_on()
            turn = first + self.rank
            start = starts[min(turn, len(starts) - 1)]
            batch = rows.batch(start, min(self.micro_batch, rows.num_rows - start))
            if shuffle_key is not None:
                batch = batch.shuffled(shuffle_key)
            sums = batch_sums(batch, backend.score(batch.to(self.device)))
            for name, value in sums.items():
                totals[name] = totals.get(name, 0.0) + value * (turn < len(starts))
        table = torch.tensor(list(totals.values()), dtype=torch.float64, device=self.device)
        dist.all_reduce(table)
        return dict(zip(totals, table.tolist(), strict=True))

    def _agree_to_go_on(self) -> None:
        """Once for each pass, which is far longer: ranks must leave it together, because an engine may gather in it."""
        asked = torch.tensor(float(self.stop.signal_name is not None), device=self.device)
        dist.all_reduce(asked)
        if asked.item() > 0:
            raise StoppedBySignal("Stopped by a signal during validation; start again to go on.")


def _added(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Sums over all stores."""
    return {name: sum(each[name] for each in scores) for name in scores[0]}


def _figures(sums: dict[str, float], token_shares: np.ndarray) -> dict[str, Any]:
    """What an `EvalRecord` says, from sums."""
    masked, mask_only, pairs = (int(sums[name]) for name in ("masked", "mask_only", "pairs"))
    shuffled = sums.get("shuffled_mask_only_loss")
    accuracy = sums["nsp_correct"] / pairs if pairs else None
    return {
        "mlm_loss": sums["mlm_loss"] / masked,
        "mask_only_loss": sums["mask_only_loss"] / max(1, mask_only),
        "shuffled_mask_only_loss": None if shuffled is None else shuffled / max(1, mask_only),
        "unigram_entropy": entropy(token_shares),
        "mlm_accuracy": sums["mlm_correct"] / masked,
        "nsp_accuracy": accuracy,
        "nsp_accuracy_low": None if accuracy is None else wilson_low(accuracy, pairs),
        "rows": int(sums["rows"]),
        "masked": masked,
        "pairs": pairs,
    }


def batch_sums(batch: Batch, scores: tuple[torch.Tensor, ...]) -> dict[str, float]:
    """Losses, hits and counts of one batch; `scores` as `PretrainingModel.score` gives them."""
    mlm_losses, mlm_predictions, _, nsp_predictions = (score.cpu() for score in scores)
    is_masked = batch.masked_labels != -100
    is_mask_only = is_masked & batch.masked_is_mask
    is_pair = batch.nsp_labels != -100
    sums = {
        "mlm_loss": mlm_losses[is_masked].double().sum(),
        "masked": is_masked.sum(),
        "mlm_correct": (mlm_predictions == batch.masked_labels)[is_masked].sum(),
        "mask_only_loss": mlm_losses[is_mask_only].double().sum(),
        "mask_only": is_mask_only.sum(),
        "nsp_correct": (nsp_predictions == batch.nsp_labels)[is_pair].sum(),
        "pairs": is_pair.sum(),
    }
    return {name: float(value) for name, value in sums.items()}


def token_shares(split: StoreSplit, vocab_size: int, max_tokens: int = ENTROPY_TOKENS) -> np.ndarray:
    """[vocab_size] float64: how often each token is found among the first `max_tokens` of a split."""
    counts, left = np.zeros(vocab_size, dtype=np.int64), max_tokens
    for index in range(split.num_blocks):
        tokens = split.block(index).tokens[:left]
        counts += np.bincount(tokens, minlength=vocab_size)
        left -= len(tokens)
        if not left:
            break
    shares: np.ndarray = counts / counts.sum()
    return shares


def entropy(shares: np.ndarray) -> float:
    """In nats, of a distribution."""
    positive = shares[shares > 0]
    return float(-(positive * np.log(positive)).sum())


def wilson_low(share: float, count: int) -> float:
    """The lower end of the 95% interval of a share of `count` trials (Wilson 1927)."""
    z2 = WILSON_Z**2
    center = share + z2 / (2 * count)
    spread = WILSON_Z * sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return (center - spread) / (1 + z2 / count)
