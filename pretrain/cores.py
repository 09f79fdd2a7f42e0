"""The cores of a machine, shared out among the ranks that compute on them.

A rank whose threads wander takes the others' caches, and between sockets its memory is far away. Parts are of
neighbours: both threads of a core, then the next core of the same socket.
"""

import os
import socket
from collections.abc import Sequence
from pathlib import Path

import torch

from pretrain import comm
from pretrain.placement import Placement

_TOPOLOGY = Path("/sys/devices/system/cpu")


def share(place: Placement, device: torch.device) -> None:
    """Where ranks compute on the cores of a machine, each keeps to a part of its own from now on; collective, of ranks
    on devices of one kind.

    Ranks that a launcher has bound already stay where they are, with as many threads as they have cores.
    """
    if device.type != "cpu":
        return
    own, host = frozenset(os.sched_getaffinity(0)), socket.gethostname()
    everybody = comm.all_gather_objects((host, own))
    here = [rank for rank, (name, _) in enumerate(everybody) if name == host]
    if len(here) == 1:
        return
    part = part_of([everybody[rank][1] for rank in here], here.index(place.rank))
    if part is None:
        return
    bind(part)
    if part == own and not comm.is_said(comm.THREADS):
        torch.set_num_threads(len(part))


def part_of(sets: Sequence[frozenset[int]], index: int, topology: Path = _TOPOLOGY) -> frozenset[int] | None:
    """What rank `index` of a machine takes, where its ranks may use `sets`.

    Its own set where no other rank may use any of it; an equal part where all may use the same; None where there are
    fewer cores than ranks, or where sets overlap otherwise, and it is better to leave it to the system.
    """
    own, others = sets[index], [each for number, each in enumerate(sets) if number != index]
    if not any(own & each for each in others):
        return own
    size = len(own) // len(sets)
    if size == 0 or any(each != own for each in others):
        return None
    ordered = sorted(own, key=lambda core: (*_place(core, topology), core))
    return frozenset(ordered[index * size : (index + 1) * size])


def bind(cores: frozenset[int]) -> None:
    """This process with all threads that it has; those that it starts follow."""
    for task in Path("/proc/self/task").iterdir():
        try:
            os.sched_setaffinity(int(task.name), cores)
        except ProcessLookupError:  # it has just ended
            continue


def _place(core: int, topology: Path) -> tuple[int, int]:
    """(socket, core within it) of a logical core; (0, number) where the system does not say."""
    folder = topology / f"cpu{core}" / "topology"
    try:
        socket, within = ((folder / name).read_text() for name in ("physical_package_id", "core_id"))
        return int(socket), int(within)
    except (OSError, ValueError):
        return 0, core
