"""What SLURM says of a job. The real one is asked in tests/launch/."""

from pathlib import Path

import pytest

from pretrain.doctor.slurm import check_job, judged_job
from tests.doctor.heres import only

# Fields as `scontrol show job -o` of SLURM 22.05 prints them.
JOB = (
    "JobId=7 JobName=pretrain Requeue=1 Restarts=0 BatchFlag=1 RunTime=00:01:00 TimeLimit=1-00:00:00 "
    "NodeList=n[1-2] NumNodes=2 StdOut=/x/slurm-7.log"
)
SCRIPT = "#!/usr/bin/env bash\n#SBATCH --time=24:00:00\n#SBATCH --signal=USR1@120\n"


def test_no_job_and_no_scontrol(tmp_path: Path) -> None:
    only(check_job({"PATH": "/usr/bin"}, 5.0), "ok", "not in a job")
    here = {"SLURM_JOB_ID": "7", "PATH": str(tmp_path)}
    only(check_job(here, 5.0), "warning", f"no scontrol on PATH ({tmp_path})", "on every node")


def test_a_controller_that_says_nothing(tmp_path: Path) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\nexit 1\n")
    scontrol.chmod(0o755)
    only(
        check_job({"SLURM_JOB_ID": "7", "PATH": str(tmp_path)}, 5.0),
        "warning",
        "says nothing",
        "scontrol ping",
    )


def test_a_job_that_is_well() -> None:
    only(judged_job(JOB, SCRIPT), "ok", "job 7", "1-00:00:00", "n[1-2]")
    only(judged_job(JOB.replace("1-00:00:00", "UNLIMITED"), SCRIPT), "ok", "UNLIMITED")
    only(judged_job(JOB.replace("Requeue=1", "Requeue=0"), ""), "ok")  # salloc, srun: nobody queues it again


@pytest.mark.parametrize(
    ("said", "script", "parts"),
    [
        (JOB.replace("Requeue=1", "Requeue=0"), SCRIPT, ["Requeue=0, expected 1", "--requeue"]),
        (JOB, SCRIPT.replace("signal", "comment"), ["no --signal", "--signal=USR1@120"]),
        (
            JOB.replace("1-00:00:00", "00:07:59"),
            SCRIPT,
            ["419 s left", "expected 300 s", "120 s to save", "--time"],
        ),
    ],
)
def test_what_keeps_a_job_from_getting_on(said: str, script: str, parts: list[str]) -> None:
    only([next(judged_job(said, script))], "warning", *parts)
