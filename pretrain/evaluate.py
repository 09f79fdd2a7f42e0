"""Validation on the held-out split: the same rows, masks and pairs every time, whatever the cut."""

from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
import torch.distributed as dist

from pretrain.backends.base import Backend
from pretrain.data.batches import Batch
from pretrain.data.store import StoreSplit
from pretrain.data.stream import StepRows
from pretrain.metrics import EvalRecord
from pretrain.rng import key

ENTROPY_TOKENS = 10_000_000  # of the held-out split, at most
WILSON_Z = 1.96


@dataclass(frozen=True)
class Evaluator:
    """The held-out rows and how to score them; `micro_batch` rows per rank and forward pass."""

    rows: StepRows
    unigram_entropy: float
    micro_batch: int
    rank: int
    world_size: int
    device: torch.device
    seed: int

    def run(self, backend: Backend, step: int, *, shuffled: bool) -> EvalRecord:
        """Scores all rows; collective. With `shuffled` a second time, each sample's context in random order."""
        sums = self._scored(backend, None)
        again = self._scored(backend, key(self.seed, "shuffled context")) if shuffled else None
        masked, mask_only, pairs = (int(sums[name]) for name in ("masked", "mask_only", "pairs"))
        accuracy = sums["nsp_correct"] / pairs if pairs else None
        return EvalRecord(
            step=step,
            mlm_loss=sums["mlm_loss"] / masked,
            mask_only_loss=sums["mask_only_loss"] / max(1, mask_only),
            shuffled_mask_only_loss=None if again is None else again["mask_only_loss"] / max(1, mask_only),
            unigram_entropy=self.unigram_entropy,
            mlm_accuracy=sums["mlm_correct"] / masked,
            nsp_accuracy=accuracy,
            nsp_accuracy_low=None if accuracy is None else wilson_low(accuracy, pairs),
            rows=self.rows.num_rows,
            masked=masked,
            pairs=pairs,
        )

    def _scored(self, backend: Backend, shuffle_key: int | None) -> dict[str, float]:
        """Sums over all rows. A rank that has run out of rows joins the last pass without counting it."""
        totals: dict[str, float] = {}
        starts = range(0, self.rows.num_rows, self.micro_batch)
        for first in range(0, len(starts), self.world_size):
            turn = first + self.rank
            start = starts[min(turn, len(starts) - 1)]
            batch = self.rows.batch(start, min(self.micro_batch, self.rows.num_rows - start))
            if shuffle_key is not None:
                batch = batch.shuffled(shuffle_key)
            sums = batch_sums(batch, backend.score(batch.to(self.device)))
            for name, value in sums.items():
                totals[name] = totals.get(name, 0.0) + value * (turn < len(starts))
        table = torch.tensor(list(totals.values()), dtype=torch.float64, device=self.device)
        dist.all_reduce(table)
        return dict(zip(totals, table.tolist(), strict=True))


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


def unigram_entropy(split: StoreSplit, vocab_size: int, max_tokens: int = ENTROPY_TOKENS) -> float:
    """Entropy in nats of the token frequencies of the first `max_tokens` tokens of a split, by whole blocks."""
    counts = np.zeros(vocab_size, dtype=np.int64)
    for index in range(split.num_blocks):
        counts += np.bincount(split.block(index).tokens, minlength=vocab_size)
        if counts.sum() >= max_tokens:
            break
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def wilson_low(share: float, count: int) -> float:
    """The lower end of the 95% interval of a share of `count` trials (Wilson 1927)."""
    z2 = WILSON_Z**2
    center = share + z2 / (2 * count)
    spread = WILSON_Z * sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return (center - spread) / (1 + z2 / count)
