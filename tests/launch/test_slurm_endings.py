"""How jobs end on a real SLURM whose ranks are stand-ins: queued again, given up, cancelled, refused."""

import sys
from pathlib import Path

import pytest

from tests.launch.slurm_cluster import SlurmCluster
from tests.worlds import ROOT

LAUNCH = ROOT / "launch" / "pretrain.py"
pytestmark = pytest.mark.slow

# Stands for a training: notes that it is there, and ends as the test asks, if need be only when it is told to.
PYTHON = """#!/usr/bin/env bash
run=runs/mine
echo >> "$run/starts"
if [[ $ENDS == when-told ]]; then
  trap 'exit 75' TERM USR1
  for _ in {1..900}; do sleep 0.1; done
fi
if [[ $ENDS == saved ]]; then
  mkdir -p "$run/checkpoints"
  (($(wc -l < "$run/starts") < 3)) || exit 0
  wc -l < "$run/starts" > "$run/checkpoints/latest"
fi
if [[ $ENDS == unsaved ]]; then
  trap '' USR1
  trap 'exit 75' TERM
  for _ in {1..900}; do sleep 0.1; done
fi
exit 75
"""


@pytest.fixture
def python(checkout: Path) -> Path:
    (checkout / "runs" / "mine").mkdir(parents=True)
    python = checkout / "a python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    return python


def submit(slurm: SlurmCluster, checkout: Path, ends: str, *options: str) -> tuple[str, Path]:
    """The job and its log."""
    env = {"PYTHON": str(checkout / "a python"), "ENDS": ends, "MAX_STARTS": "2"}
    typed = (*options, "launch/slurm/pretrain.sbatch", "--output=runs/mine")
    job = slurm.sbatch(*typed, cwd=checkout, env=env)
    return job, checkout / f"slurm-{job}.log"


def starts(checkout: Path) -> int:
    path = checkout / "runs" / "mine" / "starts"
    return len(path.read_text().splitlines()) if path.exists() else 0


def errors(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error: ")]


def test_a_job_that_does_not_get_on_is_given_up(slurm: SlurmCluster, checkout: Path, python: Path) -> None:
    job, log = submit(slurm, checkout, "at once")
    assert slurm.wait_for_end(job, log=log) == "FAILED"
    assert (starts(checkout), slurm.field(job, "Restarts")) == (2, "1")
    (error,) = errors(log.read_text())
    assert f"job {job} has started 2 times without saving anything new" in error
    assert "expected: a newer state than 'none' by each start; actual: none" in error


@pytest.mark.in_full("SLURM lets a job wait for some seconds before each start")
def test_a_job_is_queued_again_until_it_is_done(slurm: SlurmCluster, checkout: Path, python: Path) -> None:
    job, log = submit(slurm, checkout, "saved")
    assert slurm.wait_for_end(job, log=log) == "COMPLETED", log.read_text()
    assert (starts(checkout), slurm.field(job, "Restarts")) == (3, "2")
    assert errors(log.read_text()) == []


def test_a_job_that_is_cancelled_stays_so(slurm: SlurmCluster, checkout: Path, python: Path) -> None:
    job, log = submit(slurm, checkout, "when-told")
    slurm.wait_until(lambda: starts(checkout) == 1, "a start", log=log)
    slurm.run("scancel", job)
    assert slurm.wait_for_end(job, log=log) == "CANCELLED"
    assert "queued again" not in log.read_text()
    assert (slurm.field(job, "Restarts"), errors(log.read_text())) == ("0", [])


@pytest.mark.in_full("SLURM's shortest limit is a minute")
def test_a_time_limit_that_comes_before_the_save_is_said(
    slurm: SlurmCluster, checkout: Path, python: Path
) -> None:
    job, log = submit(slurm, checkout, "unsaved", "--time=1", "--signal=USR1@20")
    assert slurm.wait_for_end(job, 180, log=log) == "TIMEOUT"
    (error,) = errors(log.read_text())
    assert f"job {job} came to its time limit, 00:01:00, before it had saved" in error


@pytest.mark.parametrize("option", ["--batch", "--full"])
def test_a_signal_to_the_script_reaches_the_ranks(
    slurm: SlurmCluster, checkout: Path, python: Path, option: str, in_full: bool
) -> None:
    """As of `--signal=B:USR1@...`."""
    if option == "--full" and not in_full:
        pytest.skip("in full: the signal comes twice")
    job, log = submit(slurm, checkout, "when-told", "--nodes=2")
    slurm.wait_until(lambda: starts(checkout) == 2, "both ranks to start", log=log)
    slurm.run("scancel", option, "--signal=USR1", job)
    slurm.wait_until(
        lambda: f"Job {job} has saved its state and is queued again." in log.read_text(), "a requeue", log=log
    )
    slurm.run("scancel", job)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--output=/proc/job.log"], ["/proc/job.log", "cannot be written", "expected"]),
        (["--output=/nowhere/job.log"], ["/nowhere is no folder", "expected"]),
        (["--time=2"], ["time limit is 120 s", "save 120 s before", "--time more"]),
        (
            ["--time=3", "--signal=USR1@600"],
            ["time limit is 180 s", "save 600 s before", "--signal=USR1@SECONDS"],
        ),
        (["--time", "3", "--signal", "B:USR1@300"], ["save 300 s before", "--signal=B:USR1@SECONDS"]),
        (["--array=1-2", "--output=nodir-%a/log"], ["nodir-1 is no folder"]),
        (["--wait"], ["--wait would wait for a job that is held"]),
    ],
)
def test_what_cannot_go_well_is_refused_before_it_starts(
    slurm: SlurmCluster, checkout: Path, python: Path, options: list[str], said: list[str]
) -> None:
    typed = ("bash", "launch/slurm/submit.sh", *options, "launch/slurm/pretrain.sbatch", "--output=runs/mine")
    env = {"PYTHON": str(python), "ENDS": "at once"}
    result = slurm.run(*typed, cwd=checkout, env=env, check=False)
    (error,) = errors(result.stderr)
    assert (result.returncode, [each for each in said if each not in error]) == (2, []), error
    assert slurm.run("squeue", "--noheader", "--states=PENDING,RUNNING").stdout == ""


def test_what_can_is_submitted(slurm: SlurmCluster, checkout: Path, python: Path) -> None:
    env = {"PYTHON": str(python), "ENDS": "saved", "MAX_STARTS": "9"}
    env["SBATCH_SIGNAL"] = "USR1@10"
    typed = ("bash", "launch/slurm/submit.sh", "--job-name", "a name", "--time", "1")
    (checkout / "runs" / "mine" / "starts").write_text("\n\n")
    said = slurm.run(
        *typed, "launch/slurm/pretrain.sbatch", "--output=runs/mine", cwd=checkout, env=env
    ).stdout
    job = said.removeprefix("Submitted batch job ").strip()
    assert slurm.wait_for_end(job) == "COMPLETED"


def test_a_job_is_tried_or_held_as_sbatch_does(slurm: SlurmCluster, checkout: Path, python: Path) -> None:
    script = ("launch/slurm/pretrain.sbatch", "--output=runs/mine", "--wait")  # the script's own
    tried = slurm.run("bash", "launch/slurm/submit.sh", "--test-only", *script, cwd=checkout)
    assert "to start at" in tried.stderr and "Submitted" not in tried.stdout
    held = slurm.run("bash", "launch/slurm/submit.sh", "-H", *script, cwd=checkout).stdout
    job = held.removeprefix("Submitted batch job ").strip()
    assert (slurm.state(job), slurm.field(job, "Priority")) == ("PENDING", "0")
    slurm.run("scancel", job)


def test_a_job_that_may_not_be_queued_again_says_so(
    slurm: SlurmCluster, checkout: Path, python: Path
) -> None:
    job, log = submit(slurm, checkout, "saved", "--no-requeue")
    assert slurm.wait_for_end(job, log=log) == "FAILED"
    (error,) = errors(log.read_text())
    assert f"job {job} has saved its state, but cannot be queued again" in error
    assert "expected: scontrol requeue accepts it; actual: " in error


@pytest.mark.in_full("every contradiction is tried without SLURM")
def test_variables_that_contradict_each_other_are_one_sentence(slurm: SlurmCluster) -> None:
    """A launcher on each node that knows of itself alone; and several tasks without srun."""
    alone = 'RANK=0 WORLD_SIZE=1 "$0" "$1" --output=x'
    typed = ("bash", "-c", alone, sys.executable, LAUNCH)
    result = slurm.run("srun", "--nodes=2", "--kill-on-bad-exit=0", *typed, check=False)
    assert "SLURM_STEP_NUM_TASKS=2 on 2 node(s)" in result.stderr and "Traceback" not in result.stderr
    log = slurm.folder / "alone"
    job = slurm.sbatch(
        f"--output={log}", "--ntasks=2", "--wrap", f"{sys.executable} {LAUNCH} --output=x", cwd=slurm.folder
    )
    assert slurm.wait_for_end(job, log=log) == "FAILED"
    (error,) = errors(log.read_text())
    assert "SLURM gave this job 2 tasks" in error
