"""What `plan` is told of the GPUs whose step it models: options, their defaults, and what each figure is from."""

import argparse
from dataclasses import dataclass
from math import ceil, isfinite
from pathlib import Path

import torch

from pretrain import comm
from pretrain.errors import UsageError
from pretrain.plan.collectives import Link, Network
from pretrain.plan.measured import MeasuredRun
from pretrain.plan.scale import Machine
from pretrain.plan.scaling import AskedScale
from pretrain.plan.settings import DEFAULT, Setting

GPUS_PER_NODE = 8
_GB, _MICROSECOND = 1e9, 1e-6
_MFU = 0.4
_ASSUMED = "assumed"


@dataclass(frozen=True)
class _Figure:
    """An option that has a default."""

    option: str
    unit: str
    default: float
    of: str  # what the default is of
    label: str

    @property
    def name(self) -> str:
        return self.option.removeprefix("--").replace("-", "_")

    @property
    def metavar(self) -> str:
        return {"us": "MICROSECONDS"}.get(self.unit, self.unit.upper())


# NCCL's own cost model (src/graph/tuning.cc) for A100: what its rings reach inside a node, and a hop of them.
_INSIDE = _Figure(
    "--nvlink-bandwidth",
    "GB/s",
    235,
    "NVLink of an A100",
    "bandwidth of one GPU inside a node",
)
_BETWEEN = _Figure(
    "--bandwidth",
    "GB/s",
    20,
    "200 Gb/s a GPU, four fifths of it",
    "bandwidth between nodes, one GPU's share",
)
_LATENCY = _Figure("--latency", "us", 9.6, "NCCL over InfiniBand", "latency of a hop between nodes")
_DISK = _Figure(
    *("--disk-bandwidth", "GB/s", 1, "a shared file system"),
    "checkpoints on disk, together of the ranks that write (one replica's)",
)
_MEMORY = _Figure(
    "--memory-bandwidth", "GB/s", 1500, "of an A100's 2,039", "memory of one GPU, under the optimizer"
)
_FIGURES = (_BETWEEN, _INSIDE, _LATENCY, _MEMORY, _DISK)
# Not asked for: they differ little, and a step hardly depends on them.
_HOP_INSIDE_US, _COPY = 3.4, 20
_NEEDS_GPUS = ("mfu", "measured_ranks", *(each.name for each in _FIGURES))


def add_scale_arguments(parser: argparse.ArgumentParser) -> None:
    """All but --mfu, which stands beside the other ways to say how fast a run is."""
    parser.add_argument(
        "--gpus",
        metavar="N",
        type=int,
        help="as --ranks N --device cuda, 8 to a node unless --nodes is said; models how long a step takes there",
    )
    parser.add_argument(
        "--measured-ranks",
        metavar="N",
        type=int,
        help="whose rate --tokens-per-second is, of this very run; or whose --mfu (default of --mfu: 1)",
    )
    for each in _FIGURES:
        said = f"{each.label} (default: {each.default:g}, {each.of})"
        parser.add_argument(each.option, metavar=each.metavar, type=float, help=said)


def check_scale_arguments(arguments: argparse.Namespace) -> None:
    """Raises UsageError for what no GPUs can have, for what is said otherwise than --gpus says it, and where something
    is said of GPUs that are not asked for."""
    _check_figures(arguments)
    gpus = arguments.gpus
    if gpus is None:
        for name in _NEEDS_GPUS:
            if getattr(arguments, name) is not None:
                raise UsageError(f"--{name.replace('_', '-')} is of the GPUs of --gpus: give --gpus N too.")
        return
    if arguments.ranks not in (None, gpus):
        raise UsageError(
            f"--gpus is {gpus} and --ranks {arguments.ranks}: every GPU is a rank; give one of them."
        )
    if arguments.device == "cpu":
        raise UsageError("--gpus asks for GPUs and --device for cpu: leave one of them out.")
    nodes = _nodes(arguments)
    if gpus % nodes:
        raise UsageError(
            f"--gpus is {gpus}, which is not as many on each of {nodes} nodes: say another number, or by --nodes how "
            "many nodes share them."
        )


def settle_gpus(arguments: argparse.Namespace) -> None:
    """Puts what --gpus says, and has been checked, into ranks, device, nodes and gpus_per_node."""
    gpus, nodes = arguments.gpus, _nodes(arguments)
    if gpus is not None:
        # A measured run may have more ranks than are planned: a node has room for 8 unless --nodes says otherwise.
        arguments.gpus_per_node = GPUS_PER_NODE if arguments.nodes is None else gpus // nodes
        arguments.ranks, arguments.device = gpus, "cuda"
    arguments.nodes = nodes


def _nodes(arguments: argparse.Namespace) -> int:
    """As many as are said; else one, or those that have room for --gpus."""
    said: int | None = arguments.nodes
    return ceil((arguments.gpus or 1) / GPUS_PER_NODE) if said is None else said


def _check_figures(arguments: argparse.Namespace) -> None:
    for name in ("gpus", "measured_ranks", "nodes"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} is {value}: give 1 or more.")
    for each in _FIGURES:
        value = getattr(arguments, each.name)
        if value is None or (isfinite(value) and value > 0) or (value == 0 and each is _LATENCY):
            continue
        raise UsageError(f"{each.option} is {value:g}: give {'0 or ' * (each is _LATENCY)}a number above 0.")
    if arguments.mfu is not None and not 0 < arguments.mfu <= 1:
        raise UsageError(f"--mfu is {arguments.mfu:g}: give a share of the peak above 0 and up to 1.")


def asked_scale(arguments: argparse.Namespace, said_peak_tflops: float | None) -> AskedScale | None:
    """None without --gpus. Raises UsageError where figures do not go together."""
    if arguments.gpus is None:
        return None
    if arguments.mfu is not None and said_peak_tflops is None and not torch.cuda.is_available():
        raise UsageError("--mfu is a share of the GPU's peak: give that too, as log.peak_tflops=TFLOPS.")
    goes_by_rate = arguments.tokens_per_second is not None
    if goes_by_rate and arguments.measured_ranks is None:
        raise UsageError(
            "--tokens-per-second is the rate of some number of GPUs: say it by --measured-ranks N."
        )
    if arguments.measured_run is not None and arguments.measured_ranks is not None:
        raise UsageError("--measured-ranks is not of --run, whose config.json says its ranks: leave it out.")
    goes_by_mfu = not goes_by_rate and arguments.measured_run is None
    inside, between, latency, memory, disk = (
        _value(arguments, each) for each in (_INSIDE, _BETWEEN, _LATENCY, _MEMORY, _DISK)
    )
    machine = Machine(
        network=Network(
            inside=Link(inside * _GB, _HOP_INSIDE_US * _MICROSECOND),
            between=Link(between * _GB, latency * _MICROSECOND),
        ),
        ranks_per_node=arguments.gpus_per_node,
        memory_bytes_per_second=memory * _GB,
        copy_bytes_per_second=_COPY * _GB,
        disk_bytes_per_second=disk * _GB,
    )
    return AskedScale(
        machine=machine,
        mfu=_MFU if arguments.mfu is None else arguments.mfu,
        peak_flops=_peak(said_peak_tflops),
        measured_ranks=arguments.measured_ranks or 1,
        assumptions=tuple(_assumptions(arguments, said_peak_tflops, goes_by_mfu)),
    )


def measured_run(arguments: argparse.Namespace) -> MeasuredRun | None:
    """That of --run, where --gpus needs it. Raises UsageError where its config.json does not say what it was."""
    run: Path | None = arguments.measured_run
    return None if run is None or arguments.gpus is None else MeasuredRun.read(run)


def _value(arguments: argparse.Namespace, figure: _Figure) -> float:
    said: float | None = getattr(arguments, figure.name)
    return figure.default if said is None else said


def _peak(said_tflops: float | None) -> float | None:
    """FLOP/s of one GPU: as the recipe says, else of the one that is here."""
    if said_tflops is not None:
        return said_tflops * 1e12
    return comm.peak_flops(torch.device("cuda")) if torch.cuda.is_available() else None


def _assumptions(
    arguments: argparse.Namespace, said_peak_tflops: float | None, goes_by_mfu: bool
) -> list[Setting]:
    per_node = arguments.gpus_per_node
    found = [Setting("GPUs of a node, at most", per_node, "--gpus over --nodes (default: 8 to a node)")]
    peak = _peak(said_peak_tflops)
    if peak is not None:
        origin = "the GPU here, by its data sheet" if said_peak_tflops is None else "log.peak_tflops"
        found.append(Setting("peak of one GPU, of which MFU is a share", f"{peak / 1e12:g} TFLOP/s", origin))
    if goes_by_mfu:
        is_said = arguments.mfu is not None
        of = f"MFU of whole steps on {arguments.measured_ranks or 1} GPU(s), nothing recomputed"
        found.append(Setting(of, _value_of_mfu(arguments.mfu), "--mfu" if is_said else f"{DEFAULT} of --mfu"))
    for each in _FIGURES:
        is_said = getattr(arguments, each.name) is not None
        origin = each.option if is_said else f"{DEFAULT} of {each.option}: {each.of}"
        found.append(Setting(each.label, f"{_value(arguments, each):g} {each.unit}", origin))
    return [
        *found,
        Setting("latency of a hop inside a node", f"{_HOP_INSIDE_US:g} us", f"{_ASSUMED}: NCCL over NVLink"),
        Setting("checkpoints, from a GPU to its host", f"{_COPY} GB/s", f"{_ASSUMED}: PCIe 4"),
        Setting("gradients", "4 bytes each", "they are always summed in fp32"),
        Setting("forward", "a third of the FLOPs", f"{_ASSUMED}, for what hides behind which pass"),
    ]


def _value_of_mfu(said: float | None) -> str:
    return f"{_MFU if said is None else said:.1%}"
