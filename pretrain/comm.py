"""Processes: who we are, how we reach the others, and the only place that reads environment variables.

Launchers (torchrun, deepspeed, srun) say rank and world size in the environment; without them the process
is a world of one. The process group is gloo on CPU and NCCL on CUDA.
"""

import os
import shutil
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pretrain.errors import UsageError

GROUP_TIMEOUT = timedelta(minutes=30)
# NVIDIA's data sheets, without sparsity; the first name that is part of the device's counts.
_BF16_PEAKS = {
    "H200 NVL": 835e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
}


@dataclass(frozen=True)
class Placement:
    """This process among its peers."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int  # ranks on this machine

    @property
    def is_first(self) -> bool:
        return self.rank == 0


def placement(environment: Mapping[str, str] | None = None) -> Placement:
    """Rank, local rank and world size as the launcher says them in the environment.

    Raises:
        UsageError: a variable is no number, or the rank lies outside the world.
    """
    environment = os.environ if environment is None else environment
    values = {}
    # DeepSpeed's launcher says LOCAL_SIZE where torchrun says LOCAL_WORLD_SIZE.
    local_size = environment.get("LOCAL_SIZE", environment.get("WORLD_SIZE", "1"))
    defaults = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": local_size}
    for name, default in defaults.items():
        text = environment.get(name, default)
        if not text.isdigit():
            raise UsageError(
                f"Environment variable {name} is {text!r}, not a number: start with torchrun or deepspeed."
            )
        values[name] = int(text)
    if values["RANK"] >= values["WORLD_SIZE"]:
        raise UsageError(
            f"Environment says RANK={values['RANK']} and WORLD_SIZE={values['WORLD_SIZE']}: a rank must be below the "
            "world size; unset both to run in one process."
        )
    return Placement(
        values["RANK"], values["LOCAL_RANK"], values["WORLD_SIZE"], max(1, values["LOCAL_WORLD_SIZE"])
    )


def prepare_environment(place: Placement) -> None:
    """Settles what libraries read from the environment, and shares the cores among the ranks of a machine."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # DeepSpeed refuses to start without it, even in a world of one.
    os.environ.setdefault("LOCAL_RANK", str(place.local_rank))
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // place.local_world_size))
    # DeepSpeed's launcher sets it, and its shared-memory path then spins for ever if a peer dies at start-up.
    os.environ.pop("LOCAL_SIZE", None)


def device(place: Placement) -> torch.device:
    """The device of this process: its own GPU where there is one, else the CPU."""
    if torch.cuda.is_available():
        if place.local_rank >= torch.cuda.device_count():
            raise UsageError(
                f"Rank {place.rank} has no GPU: this machine has {torch.cuda.device_count()} and "
                f"{place.local_world_size} ranks were started on it; start one rank for each GPU."
            )
        torch.cuda.set_device(place.local_rank)
        return torch.device("cuda", place.local_rank)
    return torch.device("cpu")


def has_fast_bf16(on: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 matrices natively (Ampere or newer; AVX512-BF16 or AMX)."""
    if on.type == "cuda":
        return torch.cuda.get_device_capability(on)[0] >= 8
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def has_native_fp16(on: torch.device) -> bool:
    """Whether the hardware multiplies float16 matrices natively (Volta or newer; AVX512-FP16 or AMX-FP16).

    DeepSpeed asks the same of the device, and refuses fp16 elsewhere.
    """
    if on.type == "cuda":
        return torch.cuda.get_device_capability(on)[0] >= 7
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())


def missing_for_compiling(on: torch.device) -> str | None:
    """What torch.compile needs on this machine and does not find; None where all is there.

    It generates C++ for the CPU, and for a GPU Triton code whose launcher is C; both include Python's headers.
    """
    variable, usual = ("CXX", ["g++"]) if on.type == "cpu" else ("CC", ["gcc", "clang", "cc"])
    compilers = [os.environ[variable]] if os.environ.get(variable) else usual
    if not any(shutil.which(name) for name in compilers):
        if len(compilers[0].split()) > 1:  # torch and Triton start it by that name, without a shell
            return f"a compiler ({variable} is {compilers[0]!r}, taken for the name of one program: name a script)"
        return f"a compiler ({' or '.join(compilers)})"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "Python's headers (Python.h, of the package python3-dev)"
    return None


def peak_flops(on: torch.device) -> float | None:
    """Dense bf16 peak of one device in FLOP/s as its maker states it; None where it is not known here."""
    if on.type != "cuda":
        return None
    name = torch.cuda.get_device_name(on)
    return next((peak for part, peak in _BF16_PEAKS.items() if part in name), None)


def start(place: Placement, on: torch.device) -> None:
    """Joins the process group; a world of one needs no address and no port."""
    backend = "nccl" if on.type == "cuda" else "gloo"
    if place.world_size == 1:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    else:
        dist.init_process_group(backend, timeout=GROUP_TIMEOUT)


def stop() -> None:
    """Leaves the process group after everybody has come this far."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def all_gather_objects(value: Any) -> list[Any]:
    """`value` of every rank, in rank order; plain data only."""
    if dist.get_world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def broadcast_object(value: Any) -> Any:
    """Rank 0's `value` on every rank; plain data only."""
    box = [value]
    if dist.get_world_size() > 1:
        dist.broadcast_object_list(box, src=0)
    return box[0]


def batch_job() -> str | None:
    """What identifies this batch job across its restarts, if a scheduler says so."""
    return os.environ.get("SLURM_JOB_ID")
