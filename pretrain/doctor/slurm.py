"""The SLURM job that we are in: whether it can queue itself again, and has time to save.

The batch scripts look at the same when they start, and `launch/slurm/submit.sh` before that.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping

from pretrain.doctor.finding import Finding, ok, warning

_LIMIT = re.compile(r"(?:(\d+)-)?(\d+):(\d+):(\d+)")
_SIGNAL = re.compile(r"^#SBATCH\s+--signal[= ]\S*@(\d+)", re.MULTILINE)
_NEEDED_SECONDS = 300  # libraries, store, engine and the first steps; more is the run's


def check_job(variables: Mapping[str, str], seconds: float) -> Iterator[Finding]:
    """What scontrol says of the job."""
    job = variables.get("SLURM_JOB_ID")
    if job is None:
        yield ok("not in a job of SLURM")
        return
    scontrol = shutil.which("scontrol", path=variables.get("PATH"))
    if scontrol is None:
        yield warning(
            f"job {job} has no scontrol on PATH ({variables.get('PATH')}); launch/slurm/*.sbatch would end with 2",
            "put SLURM's commands on PATH on every node, also inside of containers that start the scripts",
        )
        return
    said = _said([scontrol, "show", "job", "-o", job], seconds)
    script = _said([scontrol, "write", "batch_script", job, "-"], seconds) if " BatchFlag=1 " in said else ""
    if not said:
        yield warning(
            f"scontrol says nothing of job {job}", "see whether the controller answers: scontrol ping"
        )
        return
    yield from judged_job(said, script)


def _said(command: list[str], seconds: float) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False, timeout=seconds / 2
    )
    return done.stdout if done.returncode == 0 else ""


def judged_job(said: str, script: str) -> Iterator[Finding]:
    """`said`: one line of `scontrol show job -o`; `script`: the batch script, empty for a job that has none."""
    fields = dict(part.split("=", 1) for part in said.split() if "=" in part)
    job, limit = fields.get("JobId", "?"), fields.get("TimeLimit", "?")
    total, spent = _seconds(limit), _seconds(fields.get("RunTime", ""))
    signal = _SIGNAL.search(script)
    lead = int(signal[1]) if signal else 0
    if script and fields.get("Requeue") == "0":
        yield warning(
            f"job {job} has Requeue=0, expected 1: it saves before its time limit, and is not queued again",
            "submit it with --requeue, or submit the same command once more to go on",
        )
    if script and signal is None:
        yield warning(
            f"the script of job {job} has no --signal=...@SECONDS: nobody tells the run to save before its time limit, "
            "unless sbatch was told on its command line",
            "submit it with --signal=USR1@120, as launch/slurm/pretrain.sbatch has it",
        )
    if total is not None and spent is not None and total - spent < lead + _NEEDED_SECONDS:
        yield warning(
            f"job {job} has {total - spent} s left of its time limit, {limit}, expected {_NEEDED_SECONDS} s to start "
            f"and train, and {lead} s to save",
            "give it more (--time), or let it be signalled later (--signal=USR1@SECONDS)",
        )
        return
    yield ok(
        f"job {job}, time limit {limit}, {fields.get('NumNodes', '?')} node(s): {fields.get('NodeList', '?')}"
    )


def _seconds(text: str) -> int | None:
    """Of [days-]hours:minutes:seconds; None for UNLIMITED."""
    found = _LIMIT.fullmatch(text)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(each or 0) for each in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
