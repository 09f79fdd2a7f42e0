"""`launch/pretrain.py` as a user types it, with a model and batches that cost nothing."""

import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.worlds import ROOT, run_command, run_python

LAUNCH = ROOT / "launch" / "pretrain.py"
SEQ_LEN = 32
# Three steps of four rows; every step shows in TensorBoard.
TINY_RUN = ("train.steps=3", "train.global_batch=4", f"data.seq_len={SEQ_LEN}", "eval.rows=8", "log.every=1")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def write_model(path: Path, model_type: str = "bert", **fields: Any) -> Path:
    """A Hugging Face config JSON that takes its vocabulary from the store."""
    content = {"model_type": model_type, **_SIZES, "max_position_embeddings": SEQ_LEN + 8, **fields}
    path.write_text(json.dumps(content))
    return path


def pretrain(*arguments: str | Path, cwd: Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """`python launch/pretrain.py ...` in one process, forked where the libraries are imported."""
    return run_python(LAUNCH, *arguments, cwd=cwd, env=ONE_THREAD, timeout=timeout)


def pretrain_as_typed(
    *arguments: str | Path, cwd: Path, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """The same by an interpreter of its own."""
    return run_command([sys.executable, LAUNCH, *arguments], cwd=cwd, env=ONE_THREAD, timeout=timeout)


def launcher(
    name: str, *arguments: str | Path, cwd: Path, timeout: float = 180
) -> subprocess.CompletedProcess[str]:
    """`deepspeed` or `torchrun` with two ranks."""
    return run_command([*launcher_command(name), *arguments], cwd=cwd, env=ONE_THREAD, timeout=timeout)


def launcher_command(name: str, script: str | Path = LAUNCH) -> list[str | Path]:
    """Without a port of its own, a run would meet whatever else this machine is training."""
    ranks = {"deepspeed": "--num_gpus", "torchrun": "--nproc-per-node"}[name]
    return [name, ranks, "2", f"--master_port={free_port()}", script]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def error_of(stderr: str) -> str:
    """The one sentence for the user; nothing of ours says more. (torchrun adds a traceback of its own.)"""
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, stderr
    for ours in ("launch", "pretrain", "data_prep"):  # the environment may lie in the repository too
        assert f'File "{ROOT / ours}' not in stderr, stderr
    return errors[0]


def steps_of(run: Path) -> list[int]:
    """The steps in metrics.jsonl, in the order they were written."""
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


_IN_ONE_PROCESS = """
import contextlib, io, json, runpy, sys
import torch.distributed as dist
launch, cases = sys.argv[1], json.loads(sys.argv[2])
main = runpy.run_path(launch, run_name="launch")["main"]
ends = []
for arguments in cases:
    sys.argv = [launch, *arguments]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main()
    if dist.is_initialized():
        dist.destroy_process_group()
    ends.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(ends))
"""


def pretrain_each(
    cases: Sequence[Sequence[str]], cwd: Path, timeout: float = 240
) -> list[subprocess.CompletedProcess[str]]:
    """The script's `main()` once for each case, in one process: starting one takes longer than most cases."""
    command = [sys.executable, "-c", _IN_ONE_PROCESS, str(LAUNCH), json.dumps([list(case) for case in cases])]
    result = run_command(command, cwd=cwd, env=ONE_THREAD, timeout=timeout)
    assert result.returncode == 0, result.stderr
    ends = json.loads(result.stdout.splitlines()[-1])
    return [subprocess.CompletedProcess(list(case), *end) for case, end in zip(cases, ends, strict=True)]
