"""What kernels on a GPU read of some slices: which of them are walked in which blocks, and where they begin.

Each is made on the host and copied once, from pinned memory and behind what the device does already: the host waits for
none of it.
"""

from collections import OrderedDict
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch

from pretrain.transfer import sent

# One program of the GPU each: so many that a device is filled often, so large that what one looks up first is little.
BLOCK_NUMEL = 8192
# Float32 elements of a cache line.
_LINE_NUMEL = 32
# Of addresses that are kept: four kinds of tensors, and gradients that lie elsewhere every other step.
_KEPT = 16


class DeviceTable:
    """`numels`, `offsets` (in elements, within its tensor) and `owners` (parameters) of slices; int64 [slices]."""

    def __init__(
        self, numels: np.ndarray, offsets: np.ndarray, owners: np.ndarray, device: torch.device
    ) -> None:
        self._numels, self._offsets, self._owners = numels, offsets, owners
        self._device = device
        self._kept: OrderedDict[bytes, torch.Tensor] = OrderedDict()

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def num_slices(self) -> int:
        return len(self._numels)

    @cached_property
    def owners(self) -> torch.Tensor:
        return self._copied(self._owners)

    @cached_property
    def rows(self) -> torch.Tensor:
        """int64 [blocks, 3]: slice, its first element, the one behind its last; those of one parameter together.

        In a tensor that begins with a cache line every block but the first of a slice does too, so that whole ones can
        be read by 16 bytes at a time.
        """
        return self._copied(self._host_rows)

    @cached_property
    def runs(self) -> torch.Tensor:
        """int64 [parameters that have blocks, 3]: parameter, its first row, the one behind its last."""
        owners = self._owners[self._host_rows[:, 0]]
        edges = [0, *(np.flatnonzero(np.diff(owners)) + 1).tolist(), len(owners)]
        runs = [(owners[first], first, last) for first, last in pairwise(edges) if first < last]
        return self._copied(np.array(runs, dtype=np.int64).reshape(-1, 3))

    def starts(self, addresses: np.ndarray) -> torch.Tensor:
        """`addresses`, int64 [slices], on the device; copied anew only where they are not those of an earlier call."""
        key = addresses.tobytes()
        if key not in self._kept:
            self._kept[key] = self._copied(addresses)
        self._kept.move_to_end(key)
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return self._kept[key]

    @cached_property
    def _host_rows(self) -> np.ndarray:
        rows = [
            (index, first, last)
            for index in np.argsort(self._owners, kind="stable").tolist()
            for first, last in pairwise(_edges(int(self._numels[index]), int(self._offsets[index])))
        ]
        return np.array(rows, dtype=np.int64).reshape(-1, 3)

    def _copied(self, values: np.ndarray) -> torch.Tensor:
        return sent(torch.from_numpy(values), self._device)


def _edges(numel: int, offset: int) -> list[int]:
    """Where the blocks of a slice begin, and its end."""
    lead = -offset % _LINE_NUMEL
    return [*([0] if lead else []), *range(lead, numel, BLOCK_NUMEL), numel] if numel else []
