"""By what means tensors are walked: numba's loops on the CPU, Triton's kernels on a GPU, else torch's own operations.

The only place that decides it, for the optimizer's passes and for norms. Triton comes with torch's builds for CUDA, and
compiles a launcher in C at its first call; where there is no Triton, or no compiler, torch's operations do the same in
more walks.
"""

from functools import cache
from importlib.util import find_spec
from typing import Literal

import torch

from pretrain import comm

KernelKind = Literal["numba", "triton", "torch"]


def kernel_kind(device: torch.device, dtype: torch.dtype) -> KernelKind:
    """Of tensors of this dtype on this device. Triton's kernels are written for float32 alone."""
    if device.type == "cpu":
        return "numba"
    return "triton" if device.type == "cuda" and dtype == torch.float32 and _runs_triton() else "torch"


@cache
def _runs_triton() -> bool:
    return find_spec("triton") is not None and comm.missing_for_compiling(torch.device("cuda")) is None
