"""The training loop: batches in, steps, records, validation, checkpoints. It never asks which backend it has."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch
import torch.distributed as dist

from pretrain.backends.base import Backend, LossWeights, StepResult
from pretrain.data.loader import Loader, Position, StepBatches
from pretrain.errors import PretrainError, StoppedBySignal
from pretrain.evaluate import Evaluator
from pretrain.metrics import MetricsWriter, StepRecord, Terminal
from pretrain.optim import Schedule
from pretrain.rng import key
from pretrain.signals import StopRequest


@dataclass(frozen=True)
class LoopOptions:
    """When things are due; `stop_at_step` ends the process early, to be started again."""

    total_steps: int
    stop_at_step: int | None
    eval_every: int
    checkpoint_every: int
    seed: int
    rank: int
    device: torch.device
    peak_flops: float | None  # of all devices together, per second
    parameters_every: int = 0

    def is_due(self, every: int, step: int) -> bool:
        """Every so many steps, and not at the end, which has its own."""
        return every > 0 and step % every == 0 and step < self.total_steps


@dataclass(frozen=True)
class Loop:
    """Everything that a run consists of, in the order it is used."""

    options: LoopOptions
    loader: Loader
    backend: Backend
    schedule: Schedule
    evaluator: Evaluator | None
    save: Callable[[int, Position], object]  # (finished steps, first row of the next step)
    step_flops: Callable[[StepBatches], float]
    writer: MetricsWriter | None  # on rank 0
    terminal: Terminal
    stop: StopRequest

    def run(self, finished_steps: int) -> None:
        """Trains from `finished_steps` to the last step; collective.

        Raises:
            StoppedBySignal: asked to stop by a signal or by `stop_at_step`; the state is saved.
            PretrainError: the gradient is not finite; nothing was updated by it. One that is an outlier by the
                optimizer's rule updates nothing either, and the run goes on.
        """
        self.terminal.begin(finished_steps, self.options.total_steps)
        for step in range(finished_steps + 1, self.options.total_steps + 1):
            started = perf_counter()
            batches = next(self.loader)
            sums = self._accumulate(batches, step)
            result = self.backend.step(lr := self.schedule(step - 1))
            totals, asked_to_stop = self._totals(sums)
            record = self._record(step, batches, totals, lr, result, perf_counter() - started)
            self._report(record, batches.sample_names)
            if result.skipped and self.backend.optimizer.spike is None:
                raise self._not_finite(record)
            if self.options.is_due(self.options.eval_every, step):
                self._evaluate(step)
            leaving = asked_to_stop or step == self.options.stop_at_step
            last = step == self.options.total_steps
            if leaving or last or self.options.is_due(self.options.checkpoint_every, step):
                self.save(step, batches.next_cursor)
            if leaving and not last:
                reason = self.stop.signal_name or ("a signal" if asked_to_stop else "train.stop_at_step")
                raise StoppedBySignal(
                    f"Stopped by {reason} after step {step}, saved; start again to continue."
                )

    def _accumulate(self, batches: StepBatches, step: int) -> torch.Tensor:
        """Forward and backward of all micro-batches; this rank's loss sums, [2]."""
        weights = LossWeights(1 / batches.num_masked, 1 / batches.num_pairs if batches.num_pairs else 0.0)
        sums = torch.zeros(2, device=self.options.device)
        for index, batch in enumerate(batches.micro_batches):
            torch.manual_seed(key(self.options.seed, "dropout", step, index, self.options.rank))
            last = index == len(batches.micro_batches) - 1
            sums += self.backend.train_micro_batch(batch.to(self.options.device), weights, last=last)
        return sums

    def _totals(self, sums: torch.Tensor) -> tuple[list[float], bool]:
        """Loss sums over all ranks, and whether any rank was asked to stop, in one all-reduce."""
        asked = sums.new_tensor([float(self.stop.signal_name is not None)])
        table = torch.cat([sums, asked]).double()
        dist.all_reduce(table)
        mlm_sum, nsp_sum, votes = table.tolist()
        return [mlm_sum, nsp_sum], votes > 0

    def _record(
        self,
        step: int,
        batches: StepBatches,
        totals: list[float],
        lr: float,
        result: StepResult,
        seconds: float,
    ) -> StepRecord:
        mlm_loss = totals[0] / batches.num_masked
        nsp_loss = totals[1] / batches.num_pairs if batches.num_pairs else 0.0
        peak = self.options.peak_flops
        return StepRecord(
            step=step,
            loss=mlm_loss + nsp_loss,
            mlm_loss=mlm_loss,
            nsp_loss=nsp_loss,
            lr=lr,
            grad_norm=result.grad_norm,
            loss_scale=result.loss_scale,
            skipped=result.skipped,
            samples=batches.num_samples,
            tokens=batches.num_tokens,
            cursor=batches.cursor.as_list(),
            seconds=seconds,
            tokens_per_second=batches.num_tokens / seconds,
            mfu=None if peak is None else self.step_flops(batches) / seconds / peak,
            skipped_because=(self.backend.optimizer.spike or "not finite") if result.skipped else None,
        )

    def _report(self, record: StepRecord, sample_names: Sequence[str]) -> None:
        seconds_left = (self.options.total_steps - record.step) * record.seconds
        self.terminal.step(record, self.options.total_steps, seconds_left)
        if record.skipped and self.backend.optimizer.spike is not None:
            self.terminal.say(f"step {record.step} skipped, cursor {record.cursor}: {record.skipped_because}")
        if self.writer is not None:
            self.writer.step(record)
            every = self.options.parameters_every
            if every and record.step % every == 0:
                self.writer.parameters(record.step, self.backend.optimizer.parameter_figures())
            if sample_names:
                self.writer.samples(record.step, sample_names)

    def _evaluate(self, step: int) -> None:
        if self.evaluator is not None:
            record = self.evaluator.run(self.backend, step, shuffled=False)
            self.terminal.evaluation(record)
            if self.writer is not None:
                self.writer.evaluation(record)

    def _not_finite(self, record: StepRecord) -> PretrainError:
        return PretrainError(
            f"The gradient norm of step {record.step} is {record.grad_norm} (loss {record.loss}, cursor "
            f"{record.cursor}) and nothing was updated: lower optimizer.lr or lengthen schedule.warmup, and start "
            "again from the last checkpoint."
        )
