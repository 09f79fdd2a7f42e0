"""The record of a step, from what the step was made of and what all ranks added up."""

from collections.abc import Mapping
from typing import NamedTuple

from pretrain.backends.base import StepResult
from pretrain.data.loader import StepBatches
from pretrain.metrics import StepRecord


class Totals(NamedTuple):
    """Of a step over all ranks: sums of the losses; means of the ranks' clocks and of their waits for data, seconds."""

    mlm_sum: float
    nsp_sum: float
    asked_to_stop: bool
    clock: float
    data_wait: float


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
