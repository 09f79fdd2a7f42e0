"""`sbatch launch/slurm/*.sbatch` on a real SLURM: what is signalled, killed or drained goes on as if it were not."""

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

from data_prep.tokenizer import train_tokenizer
from pretrain.data.store import TokenStore, verify_store
from pretrain.faults.bench import Bench, Way
from pretrain.faults.courses import Course, expect_bitwise, relative, undisturbed
from pretrain.faults.same import RANKS_TOLERANCE
from tests.data_prep.test_resume import WORDS, make_corpus
from tests.launch.slurm_cluster import NODES, SlurmCluster

pytestmark = pytest.mark.slow

WAYS = (Way("deepspeed", 2), Way("fsdp", 3))
STEPS = 60
SIGNALLED_AT = 15
PARTIAL = ".part-00002-of-00004.partial"


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

    def expect_finished(self) -> str:
        """What the log says in the end."""
        state = self.slurm.wait_for_end(self.job, log=self.log)
        said = self.log.read_text()
        assert state == "COMPLETED", said
        return said


def submitted(
    slurm: SlurmCluster,
    checkout: Path,
    *typed: str,
    script: str = "pretrain",
    run: str = "runs/of a job",
    env: Mapping[str, str] | None = None,
) -> Training:
    """`typed`: sbatch's options, "--", and those of the script."""
    options, behind = typed[: typed.index("--")], typed[typed.index("--") + 1 :]
    path = f"launch/slurm/{script}.sbatch"
    job = slurm.sbatch(*options, path, "--output", run, *behind, cwd=checkout, env=env)
    return Training(slurm, job, checkout / run, checkout / f"slurm-{job}.log")


def whole(bench: Bench, way: Way, typed: list[str]) -> Course:
    """Of a run on two ranks that nothing happened to."""
    # A process that has compiled the loops itself may round another way than one that finds them on disk.
    undisturbed(bench, way, 2, bench.arguments(1, "log.samples=true"))
    return undisturbed(bench, way, 2, typed)


def test_a_job_that_is_signalled_saves_and_goes_on_bit_for_bit(
    slurm: SlurmCluster, bench: Bench, checkout: Path
) -> None:
    typed = [*bench.arguments(STEPS), "model.dropout=0.1", "log.samples=true"]
    for way in bench.sample(WAYS, 1):
        expected = whole(bench, way, typed)
        name = f"a name; with $(odd) 'characters' {way}"
        engine = (bench.engine(way), f"--backend={way.backend}")
        options = ("--nodes=2", f"--job-name={name}", "--")
        training = submitted(slurm, checkout, *options, *engine, *typed, run=f"runs/{way.backend}")
        training.wait_for_step(SIGNALLED_AT)
        slurm.run("scancel", "--signal=USR1", training.job)
        said = training.expect_finished()
        assert slurm.field(training.job, "Restarts") == "1"
        for start in (0, 1):  # the log is appended to
            assert f"({name}), start {start}: 2 node(s), meeting at {NODES[0]}:" in said
        assert said.count("2 rank(s) on cpu") == 2
        assert said.count("is queued again") == 1
        assert "error: " not in said.replace("error: Stopped by SIGUSR1", "").replace(
            "srun: error: ", ""
        ).replace(f"slurmstepd-{NODES[0]}: error: *** JOB", "")
        expect_bitwise(Course.of(training.run), expected)
        assert not (training.run / "slurm-starts").exists()


@pytest.mark.in_full("waits for SLURM most of a minute; what a job goes on with is tried by signals")
def test_what_is_left_goes_on_when_a_node_is_drained_and_then_dies(
    slurm: SlurmCluster, bench: Bench, checkout: Path, in_full: bool
) -> None:
    """Of one or two nodes: the job comes back on the other one, with the same global batch. Of two: it waits."""
    typed = [*bench.arguments(STEPS), "model.dropout=0.0", "log.samples=true", "checkpoint.every=10"]
    for nodes in bench.sample(("1-2", "2"), 1):
        way = WAYS[0]
        training = submitted(
            slurm, checkout, f"--nodes={nodes}", "--", bench.engine(way), *typed, run=f"runs/{nodes}"
        )
        training.wait_for_step(SIGNALLED_AT)
        slurm.run("scontrol", "update", f"NodeName={NODES[1]}", "State=DRAIN", "Reason=tried")
        slurm.kill_node(NODES[1])
        try:
            slurm.wait_until(partial(_has_restarted, training), "a requeue", log=training.log)
            if nodes == "1-2":
                said = training.expect_finished()
                assert slurm.field(training.job, "NodeList") == NODES[0]
                assert "start 1: 1 node(s)" in said and "1 rank(s) on cpu" in said
            else:
                slurm.wait_until(partial(_waits, training), "it to wait", log=training.log)
                assert training.steps < STEPS
        finally:
            slurm.start_node(NODES[1])
        if nodes == "2":
            training.expect_finished()
        found = Course.of(training.run)
        assert found.values("step") == list(range(1, STEPS + 1))
        assert len({tuple(cursor) for cursor in found.values("cursor")}) == STEPS
        if not in_full:
            continue
        expected = whole(bench, way, typed)
        assert (found.values("cursor"), found.samples) == (expected.values("cursor"), expected.samples)
        assert relative(expected.values("loss"), found.values("loss")) < RANKS_TOLERANCE


def test_two_phases_from_one_command(
    slurm: SlurmCluster, bench: Bench, checkout: Path, in_full: bool
) -> None:
    """The second is signalled, and goes on by itself; it is the second phase as two commands make it, bit for bit."""
    recipe = checkout / "a recipe.toml"
    recipe.write_text("")
    way = WAYS[1]
    common = [bench.engine(way), "--backend=fsdp", *bench.arguments(10, "log.samples=true")]
    second = [f"train.steps={STEPS}", "optimizer.lr=0.002"]
    training = submitted(
        slurm,
        checkout,
        *("--nodes=1", "--"),
        *common,
        *("--phase1", "a recipe.toml", "--phase2", "a recipe.toml", *second),
        script="twophase",
        run="runs/two phases",
    )
    phase2 = Training(slurm, training.job, training.run / "phase2", training.log)
    phase2.wait_for_step(SIGNALLED_AT)
    slurm.run("scancel", "--signal=USR1", training.job)
    said = training.expect_finished()
    assert said.count("10 steps, by train.steps") == 1, said
    assert Course.of(phase2.run).values("step") == list(range(1, STEPS + 1))
    begun_with = json.loads((phase2.run / "config.json").read_text())["recipe"]["phase"]["checkpoint"]
    assert begun_with == "runs/two phases/phase1"
    if not in_full:
        return
    apart = submitted(
        slurm,
        checkout,
        *("--nodes=1", "--", "--recipe", "a recipe.toml", *common, *second),
        f"phase.checkpoint={training.run / 'phase1'}",
        run="runs/apart",
    )
    apart.expect_finished()
    expect_bitwise(Course.of(phase2.run), Course.of(apart.run))


def test_an_array_of_parts_of_which_one_is_killed_builds_the_same_store(
    slurm: SlurmCluster, checkout: Path
) -> None:
    make_corpus(checkout / "corpus", 8_000)
    train_tokenizer("wordpiece", [" ".join(WORDS)] * 50, 120, lowercase=True).save(checkout / "tokenizer")
    # Journals after every chunk: one that is killed has something to go on from.
    typed = ["--input", "corpus", "--tokenizer", "tokenizer", "--segment-bytes=100000", "--save-every=0"]
    options = ("--array=1-4", "--cpus-per-task=1", "--mem-per-cpu=0")
    job = slurm.sbatch(
        *(*options, "launch/slurm/data_prep.sbatch", *typed, "--output", "stores/parts"), cwd=checkout
    )
    task = f"{job}_2"
    log = checkout / f"slurm-{task}.log"
    slurm.wait_until((checkout / "stores" / "parts" / PARTIAL).exists, "part 2 to begin", log=log)
    builds = [each for each in psutil.process_iter() if _builds_part_2(each, checkout)]
    for each in builds:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    slurm.wait_until(lambda: slurm.state(task) == "FAILED", "part 2 to fail", log=log)
    assert not (checkout / "stores" / "parts" / "manifest.json").exists()
    slurm.run("scontrol", "requeue", task)
    for number in range(1, 5):
        each = f"{job}_{number}"
        assert slurm.wait_for_end(each, log=checkout / f"slurm-{each}.log") == "COMPLETED"
    slurm.run(sys.executable, "-m", "data_prep", "build", *typed, "--output", "stores/one", cwd=checkout)
    one, merged = (TokenStore.open(checkout / "stores" / name) for name in ("one", "parts"))
    assert verify_store(merged.path, full=True) == []
    for name in ("train", "heldout"):
        before, after = one.split(name), merged.split(name)
        assert before.num_blocks == after.num_blocks > 0
        for index in range(before.num_blocks):
            ours, theirs = after.block(index), before.block(index)
            for field in ("tokens", "sentence_lengths", "document_lengths"):
                assert np.array_equal(getattr(ours, field), getattr(theirs, field))


def _builds_part_2(process: psutil.Process, folder: Path) -> bool:
    try:
        return "2/4" in process.cmdline() and process.cwd() == str(folder)
    except psutil.Error:
        return False


def _has_restarted(training: Training) -> bool:
    return training.slurm.field(training.job, "Restarts") == "1"


def _waits(training: Training) -> bool:
    return training.slurm.state(training.job) == "PENDING"
