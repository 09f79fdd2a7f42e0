"""A step whose time is known, from which the pace of one GPU follows: that of a run, by its own config.json; of the
planned run on so many GPUs; or one whose MFU is known."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from pretrain import build
from pretrain.backends.base import Precision
from pretrain.backends.carried import BackendName
from pretrain.config import EngineConfig, Recipe, RunConfig
from pretrain.data.corpus import Corpus
from pretrain.errors import UsageError
from pretrain.plan.course import BatchFigures, batch_figures
from pretrain.plan.jobs import engine_of, job_of
from pretrain.plan.parameters import Shapes
from pretrain.plan.rate import Rate
from pretrain.plan.rows import row_figures
from pretrain.plan.scale import Job
from pretrain.plan.scaling import AskedScale, MeasuredStep
from pretrain.run_folder import RunFolder

# As a run's config.json names the device where it is no GPU.
_CPUS = ("x86_64", "aarch64")
_LOWER = "give a lower --mfu (unsaid, it is that of a large model)"


@dataclass(frozen=True)
class MeasuredRun:
    """What a run was, by its config.json. `micro_batch`: rows."""

    path: Path
    config: RunConfig
    backend: BackendName
    ranks: int
    precision: Precision
    micro_batch: int

    @classmethod
    def read(cls, path: Path) -> "MeasuredRun":
        """Raises UsageError where its config.json does not say it, or says that it was on a CPU."""
        content = RunFolder(path).read_config()
        try:
            run: Any = content["run"]
            config = RunConfig(
                Recipe.model_validate(content["recipe"]),
                EngineConfig.model_validate(content["ds_config"]),
                {},
            )
            found = cls(
                path, config, run["backend"], int(run["ranks"]), run["precision"], int(run["micro_batch"])
            )
        except (KeyError, TypeError, ValueError, ValidationError):
            found = None
        if (
            found is None
            or found.backend not in get_args(BackendName)
            or found.precision not in get_args(Precision)
            or min(found.ranks, found.micro_batch) < 1
        ):
            raise UsageError(
                f"--run {path} has no config.json that says how it was trained, which --gpus needs: give its rate by "
                "--tokens-per-second, and --measured-ranks."
            )
        if run.get("device") in _CPUS:
            raise UsageError(
                f"--run {path} was on a CPU ({run['device']}), whose pace says nothing of a GPU's: name a run on GPUs, "
                "or give --mfu."
            )
        return found

    def step(self, corpus: Corpus, rate: Rate) -> MeasuredStep:
        """With the rows that its own recipe makes of the planned run's text."""
        recipe = self.config.recipe
        size = recipe.train.global_batch if rate.rows is None else rate.rows
        model = build.build_encoder(recipe, corpus.first, on_meta=True)
        batch = batch_figures(1, size, row_figures(corpus, recipe), model.flops)
        rule = build.optimizer_rule(recipe)
        engine = engine_of(self.config, self.backend, self.ranks, self.precision, rule, on_gpu=True)
        job = job_of(self.config, engine, Shapes.of(model), self.micro_batch, rule)
        return _at_rate(job, batch, rate)


def measured_step(
    asked: AskedScale,
    run: MeasuredRun | None,
    job: Job,
    batch: BatchFigures,
    rate: Rate | None,
    corpus: Corpus,
) -> MeasuredStep:
    """Of `run`; else of the planned `job` and `batch` on --measured-ranks GPUs, at `rate` or by MFU, which is of a run
    that recomputes nothing.

    Raises UsageError where neither rate nor peak is known, and where `run` has another precision than the job.
    """
    if rate is None:
        if asked.peak_flops is None:
            raise UsageError(
                "--gpus needs to know how fast one computes: give log.peak_tflops=TFLOPS (its data sheet's) and --mfu, "
                "or a measured rate by --run or --tokens-per-second."
            )
        ranks, achieved = asked.measured_ranks, asked.mfu * asked.peak_flops
        origin = f"MFU of {asked.mfu:.0%} of {asked.peak_flops / 1e12:g} TFLOP/s on {ranks} rank(s)"
        seconds = batch.flops / achieved / ranks
        return MeasuredStep(replace(job.on(ranks), recomputed=0.0), batch, seconds, origin, _LOWER)
    if run is None:
        return _at_rate(job.on(asked.measured_ranks), batch, rate)
    planned = job.engine.precision
    if run.precision != planned:
        raise UsageError(
            f"--run {run.path} computed in {run.precision} and this run will in {planned}, at another speed: name a "
            f"run in {planned}, or make the ds_config say {run.precision}."
        )
    return run.step(corpus, rate)


def _at_rate(job: Job, batch: BatchFigures, rate: Rate) -> MeasuredStep:
    origin = f"{rate.tokens_per_second:,.0f} tokens/s on {job.engine.ranks} rank(s) ({rate.origin})"
    return MeasuredStep(job, batch, batch.tokens / rate.tokens_per_second, origin, "correct the rate")
