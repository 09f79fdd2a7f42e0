"""What a device can do at most: a product of large matrices, and a copy."""

import time
from collections.abc import Callable

import torch

_WARM, _TIMED = 3, 20


def product_flops(device: torch.device, dtype: torch.dtype, width: int) -> float:
    """FLOP/s of [width, width] @ [width, width]; the best of some."""
    left, right = (torch.randn(width, width, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(left)
    return 2 * width**3 / _best_seconds(lambda: torch.mm(left, right, out=out), device)


def copy_bytes(device: torch.device, num_bytes: int) -> float:
    """Bytes per second that are read and written."""
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / _best_seconds(lambda: target.copy_(source), device)


def _best_seconds(work: Callable[[], object], device: torch.device) -> float:
    seconds = []
    for number in range(_WARM + _TIMED):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        if number >= _WARM:
            seconds.append(time.perf_counter() - began)
    return min(seconds)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
