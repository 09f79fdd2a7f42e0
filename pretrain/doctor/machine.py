"""Device, precision, compiler, memory and the limits of this machine."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

import pretrain
from pretrain import comm
from pretrain.backends.carried import choose_precision
from pretrain.disk import free_bytes
from pretrain.doctor.finding import Finding, failed, ok, warning
from pretrain.doctor.here import Here
from pretrain.errors import UsageError
from pretrain.plan.tables import gib

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
SHARED_MEMORY = Path("/dev/shm")
# What NVIDIA's documentation of NCCL gives containers (`--shm-size=1g`), section "Docker".
_NCCL_SHARED_BYTES = 1 << 30
# An estimate: a connection to each rank by the process group, up to three by the store, and what a process has open.
_FILES_PER_RANK, _FILES_BESIDE = 4, 256
_ROOT = Path(pretrain.__file__).resolve().parents[1]


def check_device(here: Here, driver: Path = NVIDIA_DRIVER) -> Iterator[Finding]:
    """A GPU for each rank, or the CPU where there is none."""
    if not torch.cuda.is_available():
        if driver.exists():
            built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for the CPU alone"
            yield warning(
                f"this machine has NVIDIA's driver ({driver}), and torch {torch.__version__}, built {built}, finds no "
                "GPU: the run would be on the CPU",
                "install a torch for the driver's CUDA, or see whether the job has asked for GPUs (--gpus-per-node)",
            )
        else:
            yield ok("no GPU: the run computes on the CPU, and ranks exchange by gloo")
        return
    count, place = torch.cuda.device_count(), here.place
    if place is not None:
        try:
            comm.device(place)
        except UsageError as error:
            yield failed(str(error))
            return
    name, cuda = torch.cuda.get_device_name(), torch.version.cuda
    about = f"{count} x {name}, CUDA {cuda} ({_driver()}), NCCL {_nccl()}"
    if count > here.ranks_per_node:
        yield warning(
            f"{about}: expected a rank for each, and there are {here.ranks_per_node} on this machine",
            f"start {count} ranks on each machine, or ask for fewer GPUs",
        )
    else:
        yield ok(f"{about}; one for each rank")


def _driver() -> str:
    number = int(getattr(torch._C, "_cuda_getDriverVersion")())  # noqa: B009  (CPU builds have none)
    return f"driver for {number // 1000}.{number % 1000 // 10}"


def _nccl() -> str:
    found = torch.cuda.nccl.version() if torch.distributed.is_nccl_available() else ()
    return ".".join(map(str, found)) or "none"


def check_precision(here: Here) -> Iterator[Finding]:
    """The one that the ds_config asks for, on this device."""
    device, engine = torch.device(here.device_type), here.asked.config.engine
    try:
        precision = choose_precision(engine, here.asked.backend, device)
    except UsageError as error:
        yield failed(str(error))
        return
    is_slow = precision == "bf16" and not comm.has_fast_bf16(device)
    is_slow = is_slow or (precision == "fp16" and not comm.has_native_fp16(device))
    if is_slow:
        key = f"{precision}.enabled"
        yield warning(
            f"{precision} is asked for by {key} of the ds_config, and this device has no arithmetic for it: right, but "
            "slower than fp32",
            f"set {key} to false{' or to auto' if precision == 'bf16' else ''}",
        )
    else:
        yield ok(f"{precision}, on this {device.type} device")


def check_compiler(here: Here) -> Iterator[Finding]:
    """What torch.compile needs, and the optimizer's kernels on a GPU; failed only where the recipe compiles."""
    missing = comm.missing_for_compiling(torch.device(here.device_type))
    compiles = here.asked.config.recipe.train.compile
    if missing is None:
        yield ok(
            "a compiler and Python's headers" + ("" if compiles else ", which train.compile=true would need")
        )
    elif compiles:
        yield failed(
            f"train.compile is true, expected here {missing}, found none",
            "install it on every machine of the run, or set train.compile=false",
        )
    else:
        yield warning(
            f"there is not {missing}; this run needs none, train.compile=true would",
            "install it on every machine before you switch that on"
            + (", and for optimizer steps in fewer walks over memory" if here.device_type == "cuda" else ""),
        )


def check_engine(here: Here) -> Iterator[Finding]:
    """Whether the backend can be imported, tried in a process of its own."""
    program = f"import pretrain.backends.{here.asked.backend}"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=_ROOT,
        env=comm.command_environment(_ROOT),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        yield failed(f"{program}: {said}", "mend its installation, or choose the other --backend")
    else:
        yield ok(f"the engine of --backend {here.asked.backend} can be imported")


def check_memory(here: Here) -> Iterator[Finding]:
    """What `plan` says that a rank takes at its peak, beside what there is for each."""
    (stage,) = (each for each in here.plan.memory if each.is_chosen)
    ranks = here.ranks_per_node
    if here.device_type == "cuda":
        room, what = int(torch.cuda.get_device_properties(0).total_memory), "a GPU has"
    else:
        room, what = int(psutil.virtual_memory().available) // ranks, "this machine has for each, free now,"
    found = f"a rank takes {gib(stage.peak)} at its peak by `pretrain plan`, and {what} {gib(room)}"
    if stage.peak > room:
        yield warning(
            found,
            "lower train.micro_batch, set train.activation_checkpointing=full, or take more ranks under stage 3",
        )
    else:
        yield ok(found)


def check_shared_memory(here: Here, path: Path = SHARED_MEMORY) -> Iterator[Finding]:
    """NCCL's ranks on one machine may exchange there; gloo's do not."""
    if not path.is_dir():
        free, found = 0, f"there is no {path}"
    else:
        free = free_bytes(path)
        found = f"{path} has {gib(free)} free"
    if here.device_type == "cuda" and here.ranks_per_node > 1 and free < _NCCL_SHARED_BYTES:
        yield warning(
            f"{found}, expected {gib(_NCCL_SHARED_BYTES)} or more for NCCL between {here.ranks_per_node} ranks",
            "give the container more (docker --shm-size=1g, apptainer: the machine's own)",
        )
    else:
        yield ok(found + ("" if here.device_type == "cuda" else "; gloo needs none of it"))


def check_open_files(here: Here, limit: int | None = None) -> Iterator[Finding]:
    """The soft limit, beside the connections of so many ranks."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if limit is None else limit
    needed = _FILES_PER_RANK * here.ranks + _FILES_BESIDE
    if soft != resource.RLIM_INFINITY and soft < needed:
        yield warning(
            f"a process may open {soft} files, expected some {needed} for {here.ranks} rank(s)",
            f"raise the limit on every machine: ulimit -n {max(needed, 65536)}",
        )
    else:
        allowed = "as many files as it likes" if soft == resource.RLIM_INFINITY else f"{soft} files"
        yield ok(f"a process may open {allowed}")
