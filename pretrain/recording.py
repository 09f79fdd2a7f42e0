"""The record of a step, from what the step was made of and what all ranks added up."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist

from pretrain.backends.base import StepResult
from pretrain.data.loader import StepBatches
from pretrain.metrics import StepRecord
from pretrain.transfer import Fetched, sent


class Totals(NamedTuple):
    """Of a step over all ranks: sums of the losses; means of the ranks' clocks and of their waits for data, seconds."""

    mlm_sum: float
    nsp_sum: float
    asked_to_stop: bool
    clock: float
    data_wait: float
    saves: tuple[float, float]  # how far they are: see `Saver.report`


class PendingTotals:
    """The totals of a step that all ranks are adding up, in one all-reduce, while the device goes on."""

    def __init__(
        self, sums: torch.Tensor, asked_to_stop: bool, clock: float, data_wait: float, saves: Sequence[float]
    ) -> None:
        """Of this rank: loss sums [2] on the device, and what `Totals` says of all. Collective."""
        votes = torch.tensor([float(asked_to_stop), clock, data_wait, *saves], dtype=torch.float64)
        table = torch.cat([sums.double(), sent(votes, sums.device)])
        dist.all_reduce(table)
        self._table = Fetched(table)

    def arrived(self) -> Totals:
        """Of all ranks."""
        mlm_sum, nsp_sum, asked_to_stop, clock, data_wait, finished, failed = self._table.tolist()
        ranks = dist.get_world_size()
        return Totals(
            mlm_sum, nsp_sum, asked_to_stop > 0, clock / ranks, data_wait / ranks, (finished, failed)
        )


def step_record(
    step: int,
    batches: StepBatches,
    totals: Totals,
    lr: float,
    result: StepResult,
    *,
    seconds: float,
    mfu: float | None,
    noise: Mapping[str, float | int | None] | None,
) -> StepRecord:
    """Losses are means over the masked tokens and the pairs of the global batch; rates are over `seconds`."""
    mlm_loss = totals.mlm_sum / batches.num_masked
    nsp_loss = totals.nsp_sum / batches.num_pairs if batches.num_pairs else 0.0
    return StepRecord(
        step=step,
        loss=mlm_loss + nsp_loss,
        mlm_loss=mlm_loss,
        nsp_loss=nsp_loss,
        lr=lr,
        grad_norm=result.grad_norm,
        loss_scale=result.loss_scale,
        skipped=result.skip is not None,
        samples=batches.num_samples,
        tokens=batches.num_tokens,
        global_batch=batches.num_rows,
        cursor=batches.cursor.as_list(),
        seconds=seconds,
        tokens_per_second=batches.num_tokens / seconds,
        mfu=mfu,
        data_wait=totals.data_wait / seconds,
        skipped_because=None if result.skip is None else result.skip.reason,
        noise=noise,
    )
