"""The C library's heap, from which torch takes the memory of tensors on the CPU.

glibc gives freed memory back to the system: a piece of more than 32 MiB at once, and what is free at the heap's end.
The next step asks for as much anew, and the system clears every page of it before it hands it out, which takes longer
than many an operation upon it. Activations are freed and asked for in every step; so a process that computes on the CPU
keeps what it had. At its peak it then has more resident, for what is free is not always of the size that is asked for.

Torch takes tensors' memory in the thread that computes, which is the main one: its heap alone can be of any size.
"""

import ctypes

import torch

from pretrain import comm

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h
_NEVER = -1  # as in mallopt(3)
# By which glibc is told how to do it: what is said there holds.
SAID_BY = (
    "GLIBC_TUNABLES",
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "MALLOC_TRIM_THRESHOLD_",
)


def keep_freed_memory(device: torch.device) -> bool:
    """Where a process computes on the CPU, what it frees stays its own from now on, to its end; whether it does.

    It does not where the environment says how glibc is to deal with memory, nor with another C library. An allocator
    that is loaded before glibc's (LD_PRELOAD) goes on as it does.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if device.type != "cpu" or mallopt is None or comm.is_said(*SAID_BY):
        return False
    return all(mallopt(name, value) == 1 for name, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER)))


def give_back() -> None:
    """What is free goes back to the system once, for what other processes could use."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
