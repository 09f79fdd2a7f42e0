"""The demo store, for a run that was given no data.

The build runs in a process of its own, as a user would type it: worker processes import the main module
again, and a training script is an expensive one to import. It is told to stop when the process that waits for it ends.
"""

import ctypes
import signal
import subprocess
import sys
from pathlib import Path

from pretrain.data.store import TokenStore
from pretrain.errors import error_of

_PR_SET_PDEATHSIG = 1  # prctl(2)


def build_demo_store(
    output: str | Path,
    *,
    workers: int | None = None,
    num_bytes: int | None = None,
    vocab_size: int | None = None,
) -> Path:
    """The demo store at `output`, built unless it is there already; call it from one rank only.

    `num_bytes`: at most so much of its text; `vocab_size`: entries of its tokenizer, few unless said. May be killed at
    any point and called again; if another process is building the same store, waits for it.
    Raises PretrainError with the build's exit code; the build has said why on stderr.
    """
    output = Path(output).absolute()
    command = [sys.executable, "-m", "data_prep", "build", "--demo", "--resume", "--output", str(output)]
    if workers is not None:
        command += ["--workers", str(workers)]
    if num_bytes is not None:
        command += ["--demo-bytes", str(num_bytes)]
    if vocab_size is not None:
        command += ["--vocab-size", str(vocab_size)]
    # `-m` looks in the working folder first: this also finds the package in a checkout that is not installed.
    prctl = ctypes.CDLL(None).prctl  # looked up here: between fork and exec it is too late for that
    result = subprocess.run(
        command,
        cwd=Path(__file__).resolve().parents[1],
        preexec_fn=lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
        check=False,
    )
    if result.returncode != 0:
        raise error_of(result.returncode, f"The demo store {output} could not be built (see above).")
    TokenStore.open(output)
    return output
