"""What makes Python wait for a device, counted: on the CPU, where nothing waits, the same operations run.

Two ways lead there: a number that Python looks at, and an operation whose result has a size that depends on numbers.
The first are methods of a tensor, of which `.tolist()` asks no operation; both are counted where they are asked for,
those inside of compiled or C++ code by the operation.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_METHODS = frozenset({torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu})
_OPERATIONS = frozenset(
    {"_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "unique_dim", "_unique2", "equal"}
)


class _Methods(TorchFunctionMode):
    def __init__(self, counted: Counter[str]) -> None:
        super().__init__()
        self._counted = counted

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        arguments: tuple[Any, ...] = (),
        keywords: Mapping[str, Any] | None = None,
    ) -> Any:
        if function in _METHODS:
            self._counted[function.__name__] += 1
        return function(*arguments, **dict(keywords or {}))


class _Operations(TorchDispatchMode):
    def __init__(self, counted: Counter[str]) -> None:
        super().__init__()
        self._counted = counted

    def __torch_dispatch__(
        self,
        function: Any,
        types: Sequence[type],
        arguments: tuple[Any, ...] = (),
        keywords: Mapping[str, Any] | None = None,
    ) -> Any:
        name = function.overloadpacket.__name__
        if name in _OPERATIONS:
            self._counted[name] += 1
        return function(*arguments, **dict(keywords or {}))


@contextmanager
def counted_waits() -> Iterator[Counter[str]]:
    """By name, those of this thread inside of the block."""
    counted: Counter[str] = Counter()
    with _Methods(counted), _Operations(counted):
        yield counted
