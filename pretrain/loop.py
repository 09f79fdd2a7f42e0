"""The training loop: batches in, steps, records, validation, checkpoints. It never asks which backend it has."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from time import perf_counter

import torch

from pretrain import comm
from pretrain.backends.base import Backend, LossWeights, StepResult
from pretrain.checkpoint import RunState, Saver
from pretrain.data.loader import Loader, Position, StepBatches
from pretrain.diagnosis import Diagnosis
from pretrain.errors import PretrainError, StoppedBySignal
from pretrain.evaluate import Evaluator
from pretrain.metrics import MetricsWriter, StepRecord, Terminal
from pretrain.model.compilation import compilation_report
from pretrain.noise import NoiseProbe, SmallBatch
from pretrain.optim import Progress, RunLength, ScalingRule, Schedule, scaled_lr
from pretrain.recording import PendingTotals, Totals, step_record
from pretrain.rng import key
from pretrain.signals import StopRequest
from pretrain.timing import Profile, Timing
from pretrain.watch import Activity


@dataclass(frozen=True)
class LoopOptions:
    """When things are due; `stop_at_step` ends the process early, to be started again."""

    length: RunLength
    stop_at_step: int | None
    eval_every: int
    checkpoint_every: int
    seed: int
    rank: int
    device: torch.device
    peak_flops: float | None  # of all devices together, per second
    max_skipped_steps: int = 1  # in a row that end the run: spikes, or overflows at the lowest loss scale
    parameters_every: int = 0
    list_graph_breaks: bool = False
    lr_scaling: ScalingRule = "none"  # of a step with fewer rows than
    global_batch: int = 1
    looks_for_best: bool = False  # validation; its checkpoint is saved
    min_improvement: float = 0.0  # of validation, in nats

    def is_due(self, every: int, step: int) -> bool:
        """Every so many steps."""
        return every > 0 and step % every == 0


@dataclass(frozen=True)
class Loop:
    """Everything that a run consists of, in the order it is used."""

    options: LoopOptions
    loader: Loader
    backend: Backend
    schedule: Schedule
    evaluator: Evaluator | None
    saver: Saver
    state_at: Callable[[Progress, Position], RunState]  # (what is done, first row of the next step)
    step_flops: Callable[[StepBatches], float]
    writer: MetricsWriter | None  # on rank 0
    terminal: Terminal
    stop: StopRequest
    noise: NoiseProbe | None = None
    activity: Activity = field(default_factory=Activity)
    diagnosis: Diagnosis | None = None
    timing: Timing = field(default_factory=Timing)
    profile: Profile = field(default_factory=Profile)

    def run(self, start: Progress) -> Progress:
        """Trains from `start` until a limit of the run is reached, saves, and says how far that is; collective.

        Raises:
            StoppedBySignal: asked to stop by a signal or by `stop_at_step`; the state is saved.
            PretrainError: loss or gradient is not finite, and no lower loss scale can help. No such gradient updates
                anything. One that is an outlier by the optimizer's rule updates nothing either, and the run goes on.
                Or a checkpoint could not be written.
        """
        length, done, began = self.options.length, start, perf_counter() - start.seconds
        self.terminal.begin(start.steps, length.expected_steps(start))
        while length.reached(done) is None:
            step = done.steps + 1
            self.profile.before(step)
            self.activity.now("waiting for data", step)
            batches = self.timing.next_of(self.loader)
            small = self._measured_noise(batches, step)
            sums = self._accumulate(batches, step)
            self.activity.now("adding up losses")
            # Before the optimizer's step, which waits for the device once: by then they have arrived too.
            pending = self._adding_up(sums, perf_counter() - began)
            self.activity.now("optimizer step")
            result = self.backend.step(lr := self._rate(done, batches.num_rows))
            totals = pending.arrived()
            self.saver.hear(*totals.saves)
            skipped = done.skipped_tokens + (0 if result.skip is None else batches.num_tokens)
            tokens = done.tokens + batches.num_tokens
            done = replace(done, steps=step, tokens=tokens, seconds=totals.clock, skipped_tokens=skipped)
            record = self._record(step, batches, totals, lr, result, small, self.timing.step_ended())
            last = length.reached(done) is not None
            self._report(record, batches.sample_names, step if last else length.expected_steps(done))
            self._report_ranks(step, last)
            if self.options.list_graph_breaks and step == start.steps + 1:
                for line in compilation_report():  # all that will be compiled has been
                    self.terminal.say(line)
            self._raise_if_not_finite(record, result, batches, sums)
            self._pass_over_or_raise(record, result)
            asked_to_stop = totals.asked_to_stop
            if self._is_to_be_validated(step, last):
                validated = self._validated(done)
                asked_to_stop, done = asked_to_stop or validated is None, validated or done
                last = length.reached(done) is not None
            leaving = asked_to_stop or step == self.options.stop_at_step
            if leaving or last or self._is_worth_saving(done):
                self.activity.now("saving")
                self.saver.begin(self.state_at(done, batches.next_cursor))
            if leaving or last:
                self.saver.finish()
            if leaving and not last:
                reason = self.stop.signal_name or ("a signal" if asked_to_stop else "train.stop_at_step")
                raise StoppedBySignal(
                    f"Stopped by {reason} after step {step}, saved; start again to continue."
                )
        return done

    def _rate(self, done: Progress, num_rows: int) -> float:
        """The learning rate of the next step: the schedule's, which is that of the last and largest batch, for so many
        rows. Steps that were skipped have no part in it, nor have their tokens."""
        applied = Progress(self.backend.optimizer.applied_steps, done.tokens - done.skipped_tokens)
        lr, options = self.schedule(applied.steps, self.options.length.share(applied)), self.options
        return scaled_lr(lr, options.lr_scaling, num_rows, options.global_batch)

    def _measured_noise(self, batches: StepBatches, step: int) -> SmallBatch | None:
        if self.noise is None:
            return None
        self.activity.now("measuring the noise scale")
        return self.noise.measure(self.backend, batches, step)

    def _accumulate(self, batches: StepBatches, step: int) -> torch.Tensor:
        """Forward and backward of all micro-batches; this rank's loss sums, [2]."""
        weights = LossWeights.of_means(batches.num_masked, batches.num_pairs)
        sums = torch.zeros(2, device=self.options.device)
        for index, batch in enumerate(batches.micro_batches):
            self.activity.now(
                f"forward and backward of micro-batch {index + 1} of {len(batches.micro_batches)}"
            )
            torch.manual_seed(key(self.options.seed, "dropout", step, index, self.options.rank))
            last = index == len(batches.micro_batches) - 1
            sums += self.backend.train_micro_batch(batch.to(self.options.device), weights, last=last)
        return sums

    def _adding_up(self, sums: torch.Tensor, seconds: float) -> PendingTotals:
        """Loss sums over all ranks, whether any rank was asked to stop, and the mean of their clocks, so that they
        agree on when the time is over; by the same all-reduce they learn how far a save is."""
        return PendingTotals(
            sums, self.stop.signal_name is not None, seconds, self.timing.data_wait, self.saver.report()
        )

    def _record(
        self,
        step: int,
        batches: StepBatches,
        totals: Totals,
        lr: float,
        result: StepResult,
        small: SmallBatch | None,
        seconds: float,
    ) -> StepRecord:
        peak = self.options.peak_flops
        mfu = None if peak is None else self.step_flops(batches) / seconds / peak
        noise = None if self.noise is None else self.noise.figures(small, result, batches)
        return step_record(step, batches, totals, lr, result, seconds=seconds, mfu=mfu, noise=noise)

    def _report(self, record: StepRecord, sample_names: Sequence[str], total_steps: int) -> None:
        seconds_left = (total_steps - record.step) * record.seconds
        self.terminal.step(record, total_steps, seconds_left)
        if self.writer is not None:
            self.writer.step(record)
            if self.options.is_due(self.options.parameters_every, record.step):
                self.writer.parameters(record.step, self.backend.optimizer.parameter_figures())
            if sample_names:
                self.writer.samples(record.step, sample_names)

    def _report_ranks(self, step: int, last: bool) -> None:
        """Every so many steps the ranks beside each other; collective."""
        if not self.timing.is_due(step, last):
            return
        self.activity.now("comparing the ranks")
        ranks = self.timing.of_ranks(step)
        if self.writer is not None:
            self.writer.ranks(ranks)
        straggler = self.timing.stragglers.hear(ranks)
        if straggler is not None:
            self.terminal.say(straggler)

    def _is_to_be_validated(self, step: int, last: bool) -> bool:
        """Here and now; after the last step the run's end validates, and here too where checkpoints go by it."""
        return self.options.looks_for_best if last else self.options.is_due(self.options.eval_every, step)

    def made_up_for_validation(self, start: Progress) -> Progress:
        """`start`, with the validation that was due there and that was cut short, if so; collective. Checkpoints that
        go by validations know which one was counted last.

        Raises StoppedBySignal where a signal cuts it short again.
        """
        if start.steps == 0 or self.evaluator is None:
            return start
        if not self._is_to_be_validated(start.steps, self.options.length.reached(start) is not None):
            return start
        missing = self.writer is not None and not self.writer.has_evaluation(start.steps)
        if self.options.looks_for_best:
            missing = start.validations.last_step != start.steps
        if not comm.broadcast_object(missing):
            return start
        validated = self._validated(start)
        if validated is None:
            raise StoppedBySignal("Stopped by a signal during validation; start again to go on.")
        return validated

    def _validated(self, done: Progress) -> Progress | None:
        """`done`, with what a validation found where the best is looked for; None where a signal cut it short: it is
        made up for at the next start then."""
        if self.evaluator is None:
            return done
        try:
            record = self.evaluator.run(self.backend, done.steps, shuffled=False)
        except StoppedBySignal:
            return None
        self.terminal.evaluation(record)
        if self.writer is not None:
            self.writer.evaluation(record)
        if not self.options.looks_for_best:
            return done
        # Rank 0's, in every digit: ranks that judged differently would wait for each other for ever.
        loss = comm.broadcast_object(record.mlm_loss)
        return replace(
            done, validations=done.validations.after(done.steps, loss, self.options.min_improvement)
        )

    def _is_worth_saving(self, done: Progress) -> bool:
        """Whether a checkpoint is due, or this step has just validated best."""
        is_best = self.options.looks_for_best and done.validations.best_step == done.steps
        return is_best or self.options.is_due(self.options.checkpoint_every, done.steps)

    def _raise_if_not_finite(
        self, record: StepRecord, result: StepResult, batches: StepBatches, sums: torch.Tensor
    ) -> None:
        """Ends the run by a gradient or loss that is not finite without a loss scale to blame; all ranks know it
        alike. The step is repeated before, to find out why."""
        updated = result.skip is None
        if isfinite(record.loss) if result.skip is None else result.skip.reason != "not finite":
            return
        self.saver.finish()  # what was good and is not yet on disk is what the run can go on from
        what = (
            f"Step {record.step} is not finite (loss {record.loss}, gradient norm {record.grad_norm}) and "
            f"{'went into the weights' if updated else 'nothing was updated'}"
        )
        if self.diagnosis is None:
            raise PretrainError(f"{what}, cursor {record.cursor}: start again from the last checkpoint.")
        self.activity.now("repeating a step that is not finite")
        self.terminal.say(f"step {record.step} is not finite: repeating it to find out why")
        figures = {"loss": record.loss, "grad_norm": record.grad_norm}
        found = self.diagnosis.of(self.backend, batches, record.step, figures, sums)
        raise PretrainError(f"{what}: {found}.")

    def _pass_over_or_raise(self, record: StepRecord, result: StepResult) -> None:
        """The run goes on after a skipped step until too many in a row were lost."""
        if result.skip is None:
            return
        reason, detail, in_row = result.skip
        self.terminal.say(f"step {record.step} skipped ({reason}), cursor {record.cursor}: {detail}")
        if in_row < self.options.max_skipped_steps:
            return
        self.saver.finish()
        where = (
            f"{in_row} steps in a row up to step {record.step} were skipped (loss {record.loss}, gradient norm "
            f"{record.grad_norm:.4g}, cursor {record.cursor})"
        )
        if reason == "spike":
            raise PretrainError(
                f"{where} as spikes, so the change is a lasting one: lower optimizer.lr or raise train.spike_factor, "
                "and start again from the last checkpoint."
            )
        raise PretrainError(
            f"{where} at loss scale {record.loss_scale:g}, the lowest that the ds_config's fp16 block allows: lower "
            "optimizer.lr or fp16.min_loss_scale, or use bf16 or fp32, and start again from the last checkpoint."
        )
