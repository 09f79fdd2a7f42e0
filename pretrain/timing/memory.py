"""Memory of this rank: of the process on the CPU, of torch's allocator on CUDA."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

_KIB = 1 << 10


class Memory(NamedTuple):
    """In bytes. `peak`: the most so far; `figures`: by name, what TensorBoard shows."""

    peak: int
    figures: Mapping[str, int]


def memory_of(device: torch.device) -> Memory:
    """Of this process: resident and its peak; on CUDA allocated at most, and reserved."""
    if device.type == "cuda":
        allocated, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.memory_reserved(device)
        return Memory(allocated, {"max_allocated_bytes": allocated, "reserved_bytes": reserved})
    resident, peak = _of_process()
    return Memory(peak, {"resident_bytes": resident, "peak_resident_bytes": peak})


def _of_process() -> tuple[int, int]:
    """By proc(5). `getrusage` would say the peak of the process that started this one, where that was higher."""
    found = {}
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "VmHWM"):
            found[name] = int(value.split()[0]) * _KIB
    resident = found.get("VmRSS", 0)
    return resident, max(resident, found.get("VmHWM", 0))
