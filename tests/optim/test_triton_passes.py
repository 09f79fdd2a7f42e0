"""Triton's kernels where there is no GPU: by its interpreter, and compiled for GPUs that are not here.

Triton comes with torch's builds for CUDA and is no dependency of its own: without it these tests are skipped. A folder
with it may be added: `pip install --no-deps --target FOLDER triton`, and PYTHONPATH=FOLDER.
"""

import json
import sys
from importlib.util import find_spec

import pytest

from tests.worlds import run_command

pytestmark = [
    pytest.mark.skipif(
        find_spec("triton") is None, reason="needs Triton, which torch's builds for CUDA have"
    ),
    pytest.mark.slow,
]

# 16-byte reads and writes in the loop over whole chunks: each array is walked once. Of one array, two a turn.
MOVED = {
    "_squares_of_blocks": [2, 0],
    "_sums_of_runs": [0, 0],
    "_write_updates": [4, 3],
    "_subtract_updates": [2, 1],
    "_adamw_step": [4, 3],
}


def test_by_the_interpreter() -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/optim/interpreted_passes.py",
    ]
    result = run_command(command, env={"TRITON_INTERPRET": "1"}, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "passed" in result.stdout and "skipped" not in result.stdout


def test_compiled_for_gpus() -> None:
    """For an A100 and an H100: nothing spilled that would be seen, and as many bytes moved as there must be."""
    result = run_command([sys.executable, "-m", "tests.optim.compiled_passes"], timeout=300)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert set(found) == {"80", "90"}
    for kernels in found.values():
        assert {name: each["moved"] for name, each in kernels.items()} == MOVED
        assert max(each["registers"] for each in kernels.values()) <= 64  # four programs a processor and more
        assert max(each["spilled_bytes"] for each in kernels.values()) <= 16
