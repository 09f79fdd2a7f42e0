"""Memory that is freed and asked for again on the CPU."""

import os
import platform
import resource

import pytest
import torch

from pretrain import heap
from tests.worlds import run_ranks

BYTES = 256 << 20
FEW = 32  # page faults; the system clears at most 2 MiB at each

glibc_only = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")


def again(device: str, said: dict[str, str]) -> tuple[bool, int, int]:
    """On a rank: whether memory is kept; the page faults of taking as much as was freed just before, and once more
    when it was given back."""
    for name in heap.SAID_BY:
        os.environ.pop(name, None)
    os.environ.update(said)
    kept = heap.keep_freed_memory(torch.device(device))
    faults = 0
    for _ in range(8):  # some until the heap has room beside what else is held
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(BYTES, dtype=torch.uint8)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    heap.give_back()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(BYTES, dtype=torch.uint8)
    return kept, faults, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@glibc_only
def test_memory_that_was_freed_is_not_cleared_again() -> None:
    [(kept, faults, given_back)] = run_ranks(again, 1, "cpu", {})
    assert kept and faults < FEW <= given_back


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("cuda", {}),
        ("cpu", {"MALLOC_TRIM_THRESHOLD_": "131072"}),
        ("cpu", {"GLIBC_TUNABLES": "glibc.malloc.check=0"}),
    ],
)
def test_heap_is_left_alone_on_gpus_and_where_glibc_is_told(device: str, said: dict[str, str]) -> None:
    [(kept, faults, _)] = run_ranks(again, 1, device, said)
    assert not kept and faults >= FEW
