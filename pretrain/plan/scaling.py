"""A planned run on so many GPUs, by the cost model of `scale`: how fast one GPU computes, each ZeRO stage on the ranks
that were asked for, and the chosen stage on one GPU, two, four, up to those."""

from collections.abc import Sequence
from dataclasses import dataclass

from pretrain.config import Recipe
from pretrain.errors import UsageError
from pretrain.optim import Rule
from pretrain.plan.checkpoints import CheckpointFigures, checkpoint_figures
from pretrain.plan.course import BatchFigures, Course
from pretrain.plan.rate import Rate
from pretrain.plan.scale import (
    Job,
    Machine,
    SaveCost,
    StepCost,
    Work,
    achieved_flops,
    obstacle,
    save_cost,
    step_cost,
)
from pretrain.plan.settings import Setting

_STAGES = (0, 1, 2, 3)


@dataclass(frozen=True)
class AskedScale:
    """What the command line says of the GPUs. `mfu`: of whole steps and real tokens, of `peak_flops` of one GPU and a
    second, as a run writes it; not asked where a rate was measured. Both are of `measured_ranks`. `assumptions`: all
    figures, and where each is from."""

    machine: Machine
    mfu: float
    peak_flops: float | None
    measured_ranks: int
    assumptions: tuple[Setting, ...]


@dataclass(frozen=True)
class MeasuredStep:
    """One step of `batch` that took so many seconds as `job` says. `origin`, and `remedy` where that cannot be: for
    people."""

    job: Job
    batch: BatchFigures
    seconds: float
    origin: str
    remedy: str


@dataclass(frozen=True)
class Pace:
    """FLOPs per second that one GPU achieves in forward and backward."""

    flops_per_second: float
    origin: str


@dataclass(frozen=True)
class ScaleRow:
    """One stage on one number of ranks. `efficiency`: over one GPU of the same stage and micro-batch. `hours`: of the
    whole run, with its saves."""

    step: StepCost
    save: SaveCost
    samples_per_second: float
    tokens_per_second: float
    mfu: float | None
    efficiency: float
    hours: float


@dataclass(frozen=True)
class Scale:
    """All of it. `worlds`: the chosen stage on each number of ranks that the global batch divides over."""

    asked: AskedScale
    pace: Pace
    stages: tuple[ScaleRow, ...]
    worlds: tuple[ScaleRow, ...]
    has_groups: bool  # of ranks, which fewer ranks cannot have


@dataclass(frozen=True)
class Modelled:
    """A job on GPUs whose pace is known."""

    asked: AskedScale
    job: Job
    pace: Pace

    @classmethod
    def of(cls, asked: AskedScale, job: Job, measured: MeasuredStep) -> "Modelled":
        """Raises UsageError where the measured step is faster than links and memory, or the GPU's peak, let it be; and
        where ranks and groups lie on nodes so that its time is not known."""
        for what, each, rows in (
            (measured.origin, measured.job, measured.batch.rows),
            (f"--gpus {job.engine.ranks}", job, job.micro_batch * job.engine.ranks),
        ):
            problem = obstacle(each, asked.machine, rows)
            if problem is not None:
                raise UsageError(
                    f"{what} cannot be modelled: {problem}; change the ranks, --nodes, or the groups of the ds_config."
                )
        return cls(asked, job, _pace(asked, measured))

    def rate(self, batch: BatchFigures) -> Rate:
        """Of steps of that batch."""
        cost = step_cost(self.job, self.asked.machine, _work(batch), self.pace.flops_per_second)
        ranks = self.job.engine.ranks
        return Rate(batch.tokens / cost.seconds, f"modelled for {ranks} GPUs", ranks)

    def scale(self, recipe: Recipe, rule: Rule, course: Course) -> Scale:
        """Its rows for a whole run."""
        return _Rows(self.asked, self.pace, self.job, recipe, rule, course).scale()


def _pace(asked: AskedScale, measured: MeasuredStep) -> Pace:
    found = achieved_flops(measured.job, asked.machine, _work(measured.batch), measured.seconds)
    if found is None:
        raise UsageError(
            f"{measured.origin} is faster than exchanges and optimizer alone would be: {measured.remedy}, or correct "
            "--measured-ranks, --bandwidth, --nvlink-bandwidth or --memory-bandwidth."
        )
    if asked.peak_flops is not None and found > asked.peak_flops:
        raise UsageError(
            f"{measured.origin} is {found / 1e12:,.1f} TFLOP/s of a GPU in forward and backward, padding too, above "
            f"its peak of {asked.peak_flops / 1e12:,g}, since exchanges and optimizer take their part: "
            f"{measured.remedy}, or correct --measured-ranks or log.peak_tflops."
        )
    return Pace(found, f"a step at {measured.origin}, less what exchanges and optimizer take there")


@dataclass(frozen=True)
class _Rows:
    """What the rows of a scale depend on."""

    asked: AskedScale
    pace: Pace
    job: Job
    recipe: Recipe
    rule: Rule
    course: Course

    def scale(self) -> Scale:
        ranks = self.job.engine.ranks
        worlds = [1 << power for power in range(ranks.bit_length()) if 1 << power < ranks] + [ranks]
        return Scale(
            asked=self.asked,
            pace=self.pace,
            stages=tuple(self._row(self.job.at_stage(stage)) for stage in self._stages()),
            worlds=tuple(self._row(self.job.on(each)) for each in worlds if self._divides(each)),
            has_groups=bool(self.job.engine.shard_group or self.job.engine.second_group),
        )

    def _stages(self) -> Sequence[int]:
        """Groups and secondary partitions are of the stages that may have them."""
        lowest = 3 if self.job.engine.second_group else 1 if self.job.engine.shard_group else 0
        return [stage for stage in _STAGES if stage >= lowest]

    def _divides(self, ranks: int) -> bool:
        """Whether so many ranks can train it in the same micro-batches."""
        job, machine = self.job.on(ranks), self.asked.machine
        return all(obstacle(job, machine, batch.rows) is None for batch in self.course.batches)

    def _row(self, job: Job) -> ScaleRow:
        machine, pace = self.asked.machine, self.pace.flops_per_second
        largest = self.course.batches[-1]
        costs = [step_cost(job, machine, _work(batch), pace) for batch in self.course.batches]
        step, alone = costs[-1], step_cost(job.on(1), machine, _work(largest), pace)
        training = sum(
            batch.steps * cost.seconds for batch, cost in zip(self.course.batches, costs, strict=True)
        )
        figures = checkpoint_figures(self.recipe, job.engine, job.shapes, self.rule, self.course.steps)
        save = self._save(figures, step, training)
        return ScaleRow(
            step=step,
            save=save,
            samples_per_second=largest.samples / step.seconds,
            tokens_per_second=largest.tokens / step.seconds,
            mfu=self._mfu(largest, step),
            efficiency=alone.seconds / (step.ranks * step.seconds),
            hours=(training + save.total) / 3600,
        )

    def _save(self, figures: CheckpointFigures, step: StepCost, training: float) -> SaveCost:
        interval = min(training, self.recipe.checkpoint.every * step.seconds or training)
        return save_cost(figures.rank_bytes, figures.whole_bytes, self.asked.machine, interval, figures.saved)

    def _mfu(self, batch: BatchFigures, step: StepCost) -> float | None:
        peak = self.asked.peak_flops
        return None if peak is None else batch.flops / step.seconds / (step.ranks * peak)


def _work(batch: BatchFigures) -> Work:
    """Padding is computed as tokens are, though no FLOPs of the work asked for."""
    padded = batch.places / batch.tokens
    return Work(batch.rows, batch.flops * padded, batch.layer_flops * padded)
