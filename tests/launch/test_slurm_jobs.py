"""`sbatch launch/slurm/*.sbatch` on a real SLURM: what is signalled, killed or drained goes on as if it were not."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from pretrain.faults.bench import Bench, Way
from pretrain.faults.courses import Course, expect_bitwise, undisturbed
from tests.launch.slurm_cluster import NODES, SlurmCluster

pytestmark = pytest.mark.slow

WAYS = (Way("deepspeed", 2), Way("fsdp", 3))
STEPS = 200
SIGNALLED_AT = 20


@dataclass(frozen=True)
class Training:
    """A job that trains; `typed` is what stands behind the script's name."""

    slurm: SlurmCluster
    job: str
    run: Path
    log: Path

    @property
    def steps(self) -> int:
        metrics = self.run / "metrics.jsonl"
        return metrics.read_bytes().count(b"\n") if metrics.exists() else 0

    def wait_for_step(self, step: int) -> None:
        self.slurm.wait_until(lambda: self.steps >= step, f"step {step}", log=self.log)

    def wait_for_end(self) -> str:
        return self.slurm.wait_for_end(self.job, log=self.log)


def submitted(
    slurm: SlurmCluster, checkout: Path, *typed: str, script: str = "pretrain", run: str = "runs/of a job"
) -> Training:
    """`typed`: sbatch's options, "--", and those of the script."""
    options, behind = typed[: typed.index("--")], typed[typed.index("--") + 1 :]
    path = f"launch/slurm/{script}.sbatch"
    job = slurm.sbatch(*options, path, *behind, "--output", run, cwd=checkout)
    return Training(slurm, job, checkout / run, checkout / f"slurm-{job}.log")


def test_a_job_that_is_signalled_saves_and_goes_on_bit_for_bit(
    slurm: SlurmCluster, bench: Bench, checkout: Path
) -> None:
    typed = [*bench.arguments(STEPS), "model.dropout=0.1", "log.samples=true"]
    for way in bench.sample(WAYS, 1):
        name = f"a name; with $(odd) 'characters' {way}"
        engine = (bench.engine(way), f"--backend={way.backend}")
        training = submitted(
            slurm, checkout, "--nodes=2", f"--job-name={name}", "--", *engine, *typed, run=f"runs/{way.backend}"
        )
        training.wait_for_step(SIGNALLED_AT)
        slurm.run("scancel", "--signal=USR1", training.job)
        assert training.wait_for_end() == "COMPLETED", training.log.read_text()
        assert slurm.field(training.job, "Restarts") == "1"
        said = training.log.read_text()
        assert f"start 0: 2 node(s), meeting at {NODES[0]}:" in said, "the log is appended to"
        assert f"start 1: 2 node(s), meeting at {NODES[0]}:" in said
        assert "2 rank(s) on cpu" in said
        assert "is queued again" in said
        expect_bitwise(Course.of(training.run), undisturbed(bench, way, 2, typed))
        assert not (training.run / "slurm-starts").exists()
