"""From a configuration to all that can be known of its run beforehand.

1. the model is built on torch's meta device, which has shapes and no memory;
2. the first window of each store is planned, as training plans it, for what rows hold;
3. length, rates, FLOPs and checkpoints follow; where GPUs are asked for, by the time that a step is modelled to take;
4. one micro-batch is traced for its activations, and the memory of every stage follows from shapes and rules.

No engine, no process group, no weights: a job of a thousand ranks is planned as quickly as one of two.
"""

from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Literal

import torch

from pretrain import build, comm
from pretrain.backends.base import Precision
from pretrain.backends.carried import BackendName, check_carried, choose_precision
from pretrain.build import Request
from pretrain.config import RunConfig, batch_cut
from pretrain.data.corpus import Corpus
from pretrain.model import PretrainingModel
from pretrain.noise import check_measurable
from pretrain.pace import build_schedule
from pretrain.plan.activations import MicroBatch, activation_bytes
from pretrain.plan.checkpoints import CheckpointFigures, checkpoint_figures
from pretrain.plan.course import Course, RatePoint, batch_figures, plan_course, rate_points
from pretrain.plan.jobs import engine_of, job_of
from pretrain.plan.libraries import Libraries
from pretrain.plan.measured import MeasuredRun, measured_step
from pretrain.plan.memory import Engine, LiveBytes, live_bytes
from pretrain.plan.parameters import ParameterCounts, Shapes, count_parameters
from pretrain.plan.rate import Rate
from pretrain.plan.resident import Resident, batch_bytes, resident_bytes
from pretrain.plan.rows import RowFigures, row_figures
from pretrain.plan.scaling import AskedScale, Modelled, Scale
from pretrain.plan.settings import Setting, settings_of

DeviceType = Literal["cpu", "cuda"]
# Type of the weights in the passes, and what autocast makes of them, if it does.
Way = tuple[torch.dtype, torch.dtype | None]
STAGES = (0, 1, 2, 3)
_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Asked:
    """What the command line says, resolved. `memory_bytes`: what one rank may take; None: not known. `rate`: measured,
    of the ranks planned, or where `scale` is asked for of those that it names, or of `measured_run`."""

    config: RunConfig
    backend: BackendName
    store: Path | None  # None: the stores of data.blend
    ds_config: Path | None
    ranks: int
    nodes: int
    device: DeviceType
    memory_bytes: int | None
    rate: Rate | None
    store_origin: str | None = None  # where it is not the recipe that names the store
    scale: AskedScale | None = None
    measured_run: MeasuredRun | None = None

    @property
    def ranks_per_node(self) -> int:
        return ceil(self.ranks / self.nodes)


@dataclass(frozen=True)
class Cut:
    """How the global batch is cut, and in which precision."""

    precision: Precision
    micro_batch: int
    accumulation: int


@dataclass(frozen=True)
class StageMemory:
    """One rank's memory under one stage. `resident` is None where the device is a GPU."""

    stage: int
    live: LiveBytes
    resident: Resident | None
    fits: bool | None
    is_chosen: bool

    @property
    def peak(self) -> int:
        """Bytes: resident ones of the process on a CPU, of torch's allocations on a GPU."""
        return self.live.total if self.resident is None else self.resident.peak(self.live)


@dataclass(frozen=True)
class Plan:
    """All of it. `rate`: what its times go by, as it was said or as it is modelled."""

    asked: Asked
    settings: tuple[Setting, ...]
    cut: Cut
    parameters: ParameterCounts
    rows: RowFigures
    course: Course
    rates: tuple[RatePoint, ...]
    checkpoints: CheckpointFigures
    memory: tuple[StageMemory, ...]
    rate: Rate | None
    scale: Scale | None
    memory_model: "MemoryModel"

    @property
    def libraries(self) -> int | None:
        """Resident bytes of a rank without a model; None of a GPU."""
        resident = self.memory[0].resident
        return None if resident is None else resident.libraries


def open_corpus(asked: Asked) -> Corpus:
    """The stores of the run. Raises as `TokenStore.open` does."""
    place = comm.Placement(0, 0, asked.ranks, asked.ranks_per_node)
    return build.open_corpus(
        Request(asked.config, asked.backend, asked.store, Path(), "never", place, torch.device("cpu"))
    )


def make_plan(asked: Asked, corpus: Corpus) -> Plan:
    """Raises UsageError for what a run would refuse too."""
    recipe = asked.config.recipe
    libraries = Libraries(asked.backend) if asked.device == "cpu" else None
    try:
        cut = _cut(asked)
        model = build.build_encoder(recipe, corpus.first, on_meta=True)
        rows, shapes = row_figures(corpus, recipe), Shapes.of(model)
        rule = build.optimizer_rule(recipe)
        on_gpu = asked.device == "cuda"
        engine = engine_of(asked.config, asked.backend, asked.ranks, cut.precision, rule, on_gpu)
        job = job_of(asked.config, engine, shapes, cut.micro_batch, rule)
        largest = batch_figures(1, recipe.train.global_batch, rows, model.flops)
        modelled = None
        if asked.scale is not None:
            known = measured_step(asked.scale, asked.measured_run, job, largest, asked.rate, corpus)
            modelled = Modelled.of(asked.scale, job, known)
        rate = asked.rate if modelled is None else modelled.rate(largest)
        course = plan_course(recipe, rows, model.flops, rate)
        scale = None if modelled is None else modelled.scale(recipe, rule, course)
        schedule, _ = build_schedule(recipe, lambda: build.samples_per_step(corpus, recipe))
        checkpoints = checkpoint_figures(recipe, engine, shapes, rule, course.steps)
        memory = MemoryModel(
            asked, cut, engine, model, shapes, rows, course, cut.micro_batch * cut.accumulation
        )
        live = memory.live()
        taken = None if libraries is None else libraries.num_bytes()
    finally:
        if libraries is not None:
            libraries.close()
    return Plan(
        asked=asked,
        settings=settings_of(asked.config, asked.ds_config, asked.store, asked.store_origin),
        cut=cut,
        parameters=count_parameters(model),
        rows=rows,
        course=course,
        rates=rate_points(recipe, schedule, course, rows),
        checkpoints=checkpoints,
        memory=tuple(memory.of_stage(stage, each, taken) for stage, each in live.items()),
        rate=rate,
        scale=scale,
        memory_model=memory,
    )


def _cut(asked: Asked) -> Cut:
    """Raises UsageError where batch, precision or keys do not fit the ranks, as a run does."""
    config = asked.config
    micro_batch, accumulation = batch_cut(config, asked.ranks)
    if config.recipe.log.noise_every:
        check_measurable(min(config.recipe.train.batch_plan.sizes), micro_batch)
    check_carried(config.engine, asked.backend, asked.ranks)
    if asked.device == "cpu" or torch.cuda.is_available():
        precision = choose_precision(config.engine, asked.backend, torch.device(asked.device))
    else:  # a GPU that is elsewhere: of those that are trained on today each multiplies both halves
        half = config.engine.bf16.enabled is not False
        precision = "fp16" if config.engine.fp16.enabled is True else "bf16" if half else "fp32"
    return Cut(precision, micro_batch, accumulation)


@dataclass(frozen=True)
class MemoryModel:
    """What the memory of a stage depends on. `rows_of_rank`: of a step, in however many micro-batches."""

    asked: Asked
    cut: Cut
    engine: Engine
    model: PretrainingModel
    shapes: Shapes
    rows: RowFigures
    course: Course
    rows_of_rank: int

    def live(self) -> dict[int, LiveBytes]:
        """By stage; stages that compute in the same way have the same activations."""
        ways = {stage: self.way(stage) for stage in STAGES}
        traced = {way: self.activations(way, self.cut.micro_batch) for way in set(ways.values())}
        return {stage: self.live_with(stage, traced[way]) for stage, way in ways.items()}

    def live_with(self, stage: int, activations: int) -> LiveBytes:
        """Under a stage, beside so many bytes of activations."""
        return live_bytes(replace(self.engine, stage=stage), self.shapes, activations)

    def activations(self, way: Way, micro_batch: int) -> int:
        """Bytes of a micro-batch of so many rows of the mean kind, traced."""
        batch = MicroBatch(
            rows=micro_batch,
            seq_len=self.rows.seq_len,
            samples=ceil(micro_batch * self.rows.samples_per_row),
            masked=ceil(micro_batch * self.rows.masked_per_row),
        )
        return activation_bytes(self.model, batch, *way)

    def way(self, stage: int) -> Way:
        """How a stage computes."""
        engine = replace(self.engine, stage=stage)
        half = _HALVES.get(engine.precision)
        if half is None:
            return torch.float32, None
        return (half, None) if engine.compute_bytes == half.itemsize else (torch.float32, half)

    def of_stage(self, stage: int, live: LiveBytes, libraries: int | None) -> StageMemory:
        every, resident = self.asked.config.recipe.checkpoint.every, None
        if libraries is not None:
            resident = resident_bytes(
                replace(self.engine, stage=stage),
                self.shapes,
                live,
                libraries=libraries,
                data=batch_bytes(self.rows, self.rows_of_rank),
                saves_before_end=0 < every < self.course.steps,
            )
        found = StageMemory(stage, live, resident, None, stage == self.engine.stage)
        limit = self.asked.memory_bytes
        return found if limit is None else replace(found, fits=found.peak <= limit)
