"""The batch script of data_prep: what each task of the array runs, and what it refuses."""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.worlds import ROOT

BATCH = ROOT / "launch" / "slurm" / "data_prep.sbatch"
# Notes what it was given; fails where the test asks for it.
PYTHON = """#!/usr/bin/env bash
printf '%s ' "$@" >> "$LOG/calls"; echo >> "$LOG/calls"
if [[ ${SLEEPS:-} == "$3" ]]; then
  trap 'exit 75' USR1
  echo > "$LOG/ready"
  for _ in {1..300}; do sleep 0.1; done
fi
[[ $3 != "${FAILS:-}" ]] || exit "${CODE:-1}"
"""


def submit(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    python = folder / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    if not (folder / "launch").exists():
        (folder / "launch").symlink_to(ROOT / "launch")
    task = {
        "SLURM_SUBMIT_DIR": str(folder),
        "SLURM_ARRAY_JOB_ID": "42",
        "SLURM_ARRAY_TASK_ID": "2",
        "SLURM_ARRAY_TASK_MIN": "1",
        "SLURM_ARRAY_TASK_MAX": "3",
        "SLURM_ARRAY_TASK_COUNT": "3",
        "SLURM_CPUS_PER_TASK": "5",
    }
    environment = {"PATH": put_commands(folder), "PYTHON": str(python), "LOG": str(folder)} | task | variables
    environment = {name: value for name, value in environment.items() if value}
    command = ["bash", str(BATCH), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def put_commands(folder: Path) -> str:
    """A PATH with a scontrol that notes what it is asked for."""
    scontrol = folder / "scontrol"
    scontrol.write_text('#!/usr/bin/env bash\necho "$*" >> "$LOG/scontrol-calls"\n')
    scontrol.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def calls(folder: Path) -> list[str]:
    return [line.strip() for line in (folder / "calls").read_text().splitlines()]


@pytest.mark.parametrize("output", [("--output", "stores/x"), ("--output=stores/x",)])
def test_a_task_builds_its_part_and_merges_if_it_is_the_last(tmp_path: Path, output: tuple[str, ...]) -> None:
    result = submit(tmp_path, "--input", "a b.txt", *output)
    assert result.returncode == 0, result.stderr
    assert calls(tmp_path) == [
        f"-m data_prep build --input a b.txt {' '.join(output)} --part 2/3 --resume --workers 5",
        "-m data_prep merge stores/x --if-complete",
    ]


def test_a_failed_build_is_not_merged(tmp_path: Path) -> None:
    assert submit(tmp_path, "--output", "x", FAILS="build").returncode == 1
    assert len(calls(tmp_path)) == 1


@pytest.mark.parametrize("code", [1, 3, 137])
def test_a_task_ends_as_its_build_and_only_one_that_saved_is_queued_again(tmp_path: Path, code: int) -> None:
    assert submit(tmp_path, "--output", "x", FAILS="build", CODE=str(code)).returncode == code
    assert not (tmp_path / "scontrol-calls").exists()
    assert submit(tmp_path, "--output", "x", FAILS="build", CODE="75").returncode == 75
    assert (tmp_path / "scontrol-calls").read_text() == "requeue 42_2\n"
    assert len(calls(tmp_path)) == 2


def test_the_signal_before_the_time_limit_reaches_the_build(tmp_path: Path) -> None:
    environment = {"SLEEPS": "build"}

    def signal_when_ready() -> None:
        deadline = time.monotonic() + 30
        while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        script = [each for each in psutil.Process().children() if str(BATCH) in each.cmdline()]
        script[0].send_signal(signal.SIGUSR1)

    thread = threading.Thread(target=signal_when_ready)
    thread.start()
    result = submit(tmp_path, "--output", "x", **environment)
    thread.join()
    assert result.returncode == 75, result.stderr
    assert (tmp_path / "scontrol-calls").read_text() == "requeue 42_2\n"
    assert len(calls(tmp_path)) == 1


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"SLURM_ARRAY_TASK_ID": ""}, "--array=1-N"),
        ({"SLURM_ARRAY_TASK_MIN": "0"}, "from 0 to 3"),
        ({"SLURM_ARRAY_TASK_COUNT": "2"}, "without gaps"),
        ({"SLURM_SUBMIT_DIR": "/"}, "root of the repository"),
    ],
)
def test_a_wrong_array_is_refused(tmp_path: Path, variables: dict[str, str], message: str) -> None:
    result = submit(tmp_path, "--output", "x", **variables)
    assert (result.returncode, message in result.stderr) == (2, True), result.stderr
    assert not (tmp_path / "calls").exists()


def test_a_part_that_does_not_get_on_is_given_up(tmp_path: Path) -> None:
    for _ in range(2):
        assert submit(tmp_path, "--output", "x", MAX_STARTS="3", FAILS="build", CODE="75").returncode == 75
    journal = tmp_path / "x" / ".part-00002-of-00003.journal"
    journal.write_text("further")
    codes = [submit(tmp_path, "--output", "x", FAILS="build", CODE="75").returncode for _ in range(3)]
    assert codes == [75, 75, 1]
    assert (tmp_path / "scontrol-calls").read_text().count("requeue 42_2") == 4


def test_the_output_must_be_given(tmp_path: Path) -> None:
    result = submit(tmp_path, "--input", "x")
    assert (result.returncode, "--output" in result.stderr) == (2, True)
