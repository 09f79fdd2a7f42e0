"""Between host and device without waiting, so that the device always has work ahead of it.

A copy from memory that may be paged out waits for the device first, and a number that Python looks at waits for all
that was asked of it. So what goes there lies in pinned memory, and what comes back is fetched before it is looked at.
Where the device is the CPU there is nothing to copy.
"""

import torch
from torch import Tensor


def sent(on_host: Tensor, device: torch.device) -> Tensor:
    """A copy of a tensor of the host."""
    if device.type != "cuda":
        return on_host.to(device, copy=True)
    return on_host.pin_memory().to(device, non_blocking=True)


class Fetched:
    """The numbers of a 1-D tensor, on their way to the host from the moment this is made."""

    def __init__(self, numbers: Tensor) -> None:
        self._arrival: torch.cuda.Event | None = None
        self._numbers = numbers
        if numbers.is_cuda:
            self._numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._numbers.copy_(numbers, non_blocking=True)
            self._arrival = torch.cuda.Event()
            self._arrival.record()

    def tolist(self) -> list[float]:
        """Waits for what the device was asked before this was made, and for nothing after it."""
        if self._arrival is not None:
            self._arrival.synchronize()
        found: list[float] = self._numbers.tolist()
        return found
