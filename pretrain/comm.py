"""Processes: who we are, how we reach the others, and the only place that reads environment variables.

What launchers (torchrun, deepspeed, srun) say there is read in `placement`; without them the process is a world of one.
The process group is gloo on CPU and NCCL on CUDA.
"""

import os
import shutil
import socket
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from pretrain.errors import PretrainError, UsageError
from pretrain.extensions import recover_locks
from pretrain.placement import MeetingPoint, Placement, meeting_point, placed
from pretrain.secrets import secrets_in

T = TypeVar("T")
GROUP_SECONDS = 1800.0
THREADS = "OMP_NUM_THREADS"  # that a process computes with
_WATCH_SECONDS = 3.0  # that one question of the watchdog to the store may take
# Of a launcher, which a command started from here must not see.
_OF_A_LAUNCHER = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT", "GROUP_WORLD_SIZE", "CROSS_SIZE"),
)
_OF_A_JOB, _OF_THE_CLUSTER = "SLURM_", "SLURM_CONF"
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


def placement(environment: Mapping[str, str] | None = None) -> Placement:
    """Rank, local rank and world size as the launcher, or SLURM, says them in the environment.

    Raises UsageError where variables are missing, no numbers, or contradict each other.
    """
    return placed(os.environ if environment is None else environment)


def prepare_environment(place: Placement) -> None:
    """Settles what libraries read from the environment, and shares the cores among the ranks of a machine."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # What cuBLAS needs for train.deterministic; it reads it at its first product.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # DeepSpeed refuses to start without it, even in a world of one.
    os.environ.setdefault("LOCAL_RANK", str(place.local_rank))
    if not is_said(THREADS):
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // place.local_world_size))
    # DeepSpeed's launcher sets it, and its shared-memory path then spins for ever if a peer dies at start-up.
    os.environ.pop("LOCAL_SIZE", None)
    if "TORCH_EXTENSIONS_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = cache / "large-batch-bert" / "torch-extensions" / socket.gethostname()
        os.environ["TORCH_EXTENSIONS_DIR"] = str(folder)
        with suppress(OSError):  # who compiles nothing needs no such folder
            recover_locks(folder)


def device(place: Placement) -> torch.device:
    """The device of this process: its own GPU where there is one, else the CPU."""
    if torch.cuda.is_available():
        if place.local_rank >= torch.cuda.device_count():
            raise UsageError(
                f"Rank {place.rank} has no GPU: this machine has {torch.cuda.device_count()} and "
                f"{place.local_world_size} ranks were started on it; start one rank for each GPU (with srun by "
                "--gpus-per-node: --gpus-per-task hides all but one from each rank)."
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


def open_store(place: Placement, seconds: float = GROUP_SECONDS) -> dist.Store:
    """Where the processes meet: kept by torchrun, else by rank 0. A world of one needs no address and no port.

    Raises UsageError where the launcher does not say the address.
    """
    return dist.HashStore() if place.world_size == 1 else _tcp_store(place, seconds, may_keep=True)


def watch_store(place: Placement) -> dist.Store:
    """A client of the same store that no collective shares, with a short timeout."""
    return dist.PrefixStore("watch", _tcp_store(place, _WATCH_SECONDS, may_keep=False))


def start(
    place: Placement, on: torch.device, store: dist.Store | None = None, seconds: float = GROUP_SECONDS
) -> None:
    """Joins the process group; an exchange that takes longer than `seconds` fails."""
    dist.init_process_group(
        "nccl" if on.type == "cuda" else "gloo",
        store=dist.PrefixStore("group", store or open_store(place, seconds)),
        rank=place.rank,
        world_size=place.world_size,
        timeout=timedelta(seconds=seconds),
    )


def meet() -> None:
    """Waits until everybody has come this far."""
    if dist.is_initialized():
        dist.barrier()


def stop() -> None:
    """Leaves the process group after everybody has come this far."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def _tcp_store(place: Placement, seconds: float, may_keep: bool) -> dist.Store:
    """Nobody waits in it for the others to join, so that the watchdog can."""
    where = meeting_point(os.environ, place.world_size)
    _check_resolves(where)
    kept_by_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)
    is_master = may_keep and place.is_first and not kept_by_launcher
    try:
        store = dist.TCPStore(
            where.address,
            where.port,
            place.world_size,
            is_master=is_master,
            timeout=timedelta(seconds=seconds),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except RuntimeError as error:
        if not (is_master and "EADDRINUSE" in str(error)):
            raise
        raise UsageError(
            f"Port {where.port} of {socket.gethostname()}, where the ranks are to meet, is taken by another process; "
            "expected one that nobody listens on: set MASTER_PORT (torchrun, deepspeed: --master_port) to another."
        ) from None
    # torchrun may start the ranks again with the store it has.
    return dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _check_resolves(where: MeetingPoint) -> None:
    """Raises UsageError where this machine does not know the address; the store would try until its time is over."""
    try:
        socket.getaddrinfo(where.address, where.port)
    except socket.gaierror as error:
        raise UsageError(
            f"{where.origin}, and {socket.gethostname()} cannot resolve it ({error.strerror}); expected a name or "
            "address of rank 0's machine that every node knows: set MASTER_ADDR to one."
        ) from None


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size()


def all_gather_objects(value: Any) -> list[Any]:
    """`value` of every rank, in rank order; plain data only."""
    if dist.get_world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def all_gather_numbers(row: Sequence[float], on: torch.device) -> list[list[float]]:
    """`row` of every rank, in rank order and in float64; every rank gives as many numbers."""
    own = torch.tensor(row, dtype=torch.float64, device=on)
    table = own.new_empty(dist.get_world_size(), len(row))
    dist.all_gather(list(table.unbind()), own)
    gathered: list[list[float]] = table.tolist()
    return gathered


def broadcast_object(value: Any) -> Any:
    """Rank 0's `value` on every rank; plain data only."""
    box = [value]
    if dist.get_world_size() > 1:
        dist.broadcast_object_list(box, src=0)
    return box[0]


def flight_record() -> bytes | None:
    """What NCCL has been asked and has not done, as JSON: torch keeps a record by default. None under gloo."""
    if not dist.is_initialized() or dist.get_backend() != "nccl":
        return None
    c10d: Any = torch._C._distributed_c10d
    record: bytes = c10d._dump_nccl_trace_json(includeCollectives=True, onlyActive=True)
    return record


def on_first_rank(action: Callable[[], T]) -> T:
    """`action()` of rank 0 alone; every rank returns its result (plain data) or raises the PretrainError it raised."""
    outcome: tuple[Any, PretrainError | None] = (None, None)
    if dist.get_rank() == 0:
        try:
            outcome = (action(), None)
        except PretrainError as error:
            outcome = (None, error)
        except OSError as error:  # else the others would wait for ever
            where = f"{error.filename}: " if error.filename else ""
            outcome = (None, PretrainError(f"{where}{error.strerror or error}."))
    result, problem = broadcast_object(outcome)
    if problem is not None:
        raise problem
    found: T = result
    return found


def environment_secrets() -> frozenset[str]:
    """What is in the environment under names of tokens and passwords."""
    return secrets_in(os.environ)


def variables() -> dict[str, str]:
    """The environment as this process found it; for what explains it to a user."""
    return dict(os.environ)


def is_said(*names: str) -> bool:
    """Whether the environment has any of these variables."""
    return any(name in os.environ for name in names)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def batch_job() -> str | None:
    """What identifies this batch job across its restarts, if a scheduler says so."""
    return os.environ.get("SLURM_JOB_ID")


def command_environment(root: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a command as a user types it: this one without a launcher's variables, and `extra`.

    Packages are imported from `root` first, and this interpreter's own commands (`deepspeed`, `torchrun`) come first
    on the path, as after activating its environment.
    """
    found = {name: value for name, value in os.environ.items() if not _is_of_a_launcher(name)}
    found["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), found.get("PATH", os.defpath)])
    found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), found.get("PYTHONPATH")]))
    found["TOKENIZERS_PARALLELISM"] = "false"
    return found | dict(extra or {})


def _is_of_a_launcher(name: str) -> bool:
    return name in _OF_A_LAUNCHER or (name.startswith(_OF_A_JOB) and name != _OF_THE_CLUSTER)


def rank_of(pid: int) -> int | None:
    """What a launcher told this process of ours when it was started. Raises OSError where it is gone."""
    for line in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
        name, _, value = line.partition(b"=")
        if name == b"RANK" and value.isdigit():
            return int(value)
    return None


def take_environment(environment: Mapping[str, str]) -> None:
    """Makes it that of this process, which was forked from another's."""
    os.environ.clear()
    os.environ.update(environment)
