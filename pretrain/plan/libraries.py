"""What a rank takes before it has a model: interpreter, libraries, compiled loops. Measured, in a process of its own.

The figure differs between machines and versions, from 0.4 to 0.6 GiB, so no constant would do. The process imports what
a rank imports, calls one compiled loop, and says what it has resident; it takes the seconds that the plan takes.
"""

import subprocess
import sys
from pathlib import Path

import pretrain
from pretrain import comm
from pretrain.backends.carried import BackendName

_PROGRAM = """
from pretrain import garbage
garbage.pause()
import numpy, torch
import pretrain.run, pretrain.backends.{backend}
from pretrain.kernels import blocks
garbage.spare()
blocks.squared_norms(numpy.array([torch.ones(8).data_ptr()]), blocks.cut([8]), torch.float32)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmRSS"].split()[0]) * 1024)
"""
# Measured besides, of runs whose states are known: kernels of torch's linear algebra, the process group, TensorBoard,
# the loops of data and optimizer.
_FIRST_STEPS = 75 << 20
# Where it cannot be measured: without /proc, or without the engine.
_USUAL = 480 << 20


class Libraries:
    """Measured beside what else the plan does; to be closed."""

    def __init__(self, backend: BackendName) -> None:
        root = Path(pretrain.__file__).resolve().parents[1]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM.format(backend=backend)],
            cwd=root,
            env=comm.command_environment(root),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def num_bytes(self) -> int:
        """Waits for it."""
        output, _ = self._process.communicate()
        lines = output.split()
        measured = int(lines[-1]) if self._process.returncode == 0 and lines else _USUAL
        return measured + _FIRST_STEPS

    def close(self) -> None:
        """Ends the process if it is still there."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
