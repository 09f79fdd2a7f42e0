"""How fast ranks exchange: an all-reduce of all of them, and the links between neighbours."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import torch
import torch.distributed as dist

from pretrain import comm
from pretrain.doctor.finding import Finding, ok, warning
from pretrain.doctor.here import Here
from pretrain.doctor.limits import Late, within
from pretrain.doctor.meeting import Meeting

SIZES = (1 << 20, 8 << 20, 32 << 20)  # bytes
_TRIES = 5
_LINK_BYTES = 4 << 20
SLOWER = 3.0  # than the median of links of its kind
_UNLIMITED = 86_400.0  # NCCL's own watchdog would end the process
_MIB = 1 << 20


@dataclass(frozen=True)
class Link:
    """Between two neighbours in rank order, one after the other there and back. `rate` in bytes per second."""

    ranks: tuple[int, int]
    is_within_machine: bool
    rate: float


def measure_exchange(here: Here, meeting: Meeting, nodes: Mapping[int, str]) -> list[Finding]:
    """Bus bandwidth as nccl-tests define it (doc/PERFORMANCE.md): 2 (n - 1) / n x bytes / time of an all-reduce."""
    if here.place is None or here.ranks == 1:
        return [ok("one process: nothing to exchange")]
    if not meeting.is_complete:
        return [warning("not measured, because not all ranks have come", "see who is missing, and try again")]
    rates: dict[int, float] = {}
    links: list[Link] = []
    problem = ""
    try:
        rates, links = within(here.seconds, lambda: _measured(here, meeting, nodes))
    except Late:
        problem = f"it had not ended after {here.seconds:g} s"
    except Exception as error:  # whatever gloo or NCCL raises
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
    answers = meeting.gather("all-reduce", [problem, [[*each.ranks, each.rate] for each in links]])
    said = {rank: answer[0] for rank, answer in answers.items() if answer[0]}
    if said or not here.place.is_first:
        own = said.get(here.place.rank)
        return [] if own is None else [_broken(own)]
    found = [Link((a, b), nodes[a] == nodes[b], rate) for _, each in answers.values() for a, b, rate in each]
    speeds = ", ".join(f"{rate / 1e9:.2f} GB/s at {size // _MIB} MiB" for size, rate in rates.items())
    return [ok(f"all-reduce of {here.ranks} ranks: {speeds} (bus bandwidth)"), *judged_links(found)]


def _broken(problem: str) -> Finding:
    return Finding(
        "failed",
        f"an all-reduce of all ranks does not work: {problem}",
        "see the lines about names and interfaces; GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME names the interface, and a "
        "firewall must let all ports pass between the machines of a job",
    )


def _measured(here: Here, meeting: Meeting, nodes: Mapping[int, str]) -> tuple[dict[int, float], list[Link]]:
    place = here.place
    assert place is not None
    device = comm.device(place)
    comm.start(place, device, meeting.for_group, _UNLIMITED)
    rates = {}
    for size in SIZES:
        tensor = torch.zeros(size // 4, device=device)
        seconds = [_timed(lambda tensor=tensor: dist.all_reduce(tensor), device) for _ in range(_TRIES + 1)]
        rates[size] = 2 * (here.ranks - 1) / here.ranks * size / median(seconds[1:])
    links = measured_links(place.rank, here.ranks, nodes, device) if here.ranks > 2 else []
    dist.barrier()
    dist.destroy_process_group()
    return rates, links


def measured_links(rank: int, ranks: int, nodes: Mapping[int, str], device: torch.device) -> list[Link]:
    """In two rounds, so that no rank has two neighbours at a time; each link is told by its lower rank."""
    tensor, found = torch.zeros(_LINK_BYTES // 4, device=device), []
    for first in (0, 1):
        dist.barrier()
        is_lower = rank % 2 == first
        other = rank + 1 if is_lower else rank - 1
        if not 0 <= other < ranks:
            continue

        def there_and_back(other: int = other, is_lower: bool = is_lower) -> None:
            for sends in (is_lower, not is_lower):
                (dist.send if sends else dist.recv)(tensor, other)

        seconds = [_timed(there_and_back, device) for _ in range(_TRIES + 1)]
        if is_lower:
            rate = 2 * _LINK_BYTES / median(seconds[1:])
            found.append(Link((rank, other), nodes[rank] == nodes[other], rate))
    return found


def _timed(action: object, device: torch.device) -> float:
    assert callable(action)
    begin = perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter() - begin


def judged_links(links: list[Link]) -> list[Finding]:
    """Each beside those of its kind, within a machine or between two; of fewer than three there is nothing to say."""
    findings = []
    for is_within in (True, False):
        kind = [each for each in links if each.is_within_machine == is_within]
        if len(kind) < 3:
            continue
        usual = median(each.rate for each in kind)
        for each in kind:
            if each.rate * SLOWER < usual:
                a, b = each.ranks
                findings.append(
                    warning(
                        f"ranks {a} and {b} exchange {each.rate / 1e9:.2f} GB/s, expected about the {usual / 1e9:.2f} "
                        "of the other neighbours",
                        "see what else those two do, or leave their machine out (sbatch --exclude)",
                    )
                )
    return findings
