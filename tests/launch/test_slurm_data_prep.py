"""The batch script of data_prep: what each task of the array runs, and what it refuses."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.worlds import ROOT

BATCH = ROOT / "launch" / "slurm" / "data_prep.sbatch"
# Notes what it was given; fails where the test asks for it.
PYTHON = """#!/usr/bin/env bash
printf '%s ' "$@" >> "$LOG/calls"; echo >> "$LOG/calls"
[[ $3 != "${FAILS:-}" ]]
"""


def submit(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    python = folder / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    task = {
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_ARRAY_JOB_ID": "42",
        "SLURM_ARRAY_TASK_ID": "2",
        "SLURM_ARRAY_TASK_MIN": "1",
        "SLURM_ARRAY_TASK_MAX": "3",
        "SLURM_ARRAY_TASK_COUNT": "3",
        "SLURM_CPUS_PER_TASK": "5",
    }
    environment = {"PATH": os.environ["PATH"], "PYTHON": str(python), "LOG": str(folder)} | task | variables
    environment = {name: value for name, value in environment.items() if value}
    command = ["bash", str(BATCH), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


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


def test_the_output_must_be_given(tmp_path: Path) -> None:
    result = submit(tmp_path, "--input", "x")
    assert (result.returncode, "--output" in result.stderr) == (2, True)
