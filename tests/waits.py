"""What makes Python wait for a device, counted: on the CPU, where nothing waits, the same operations run.

Three ways lead there: a number that Python looks at; an operation whose result has a size that depends on numbers; and
values that are copied to the device as they are made. Reads of single values and such operations are counted as torch
dispatches them, the others by the call.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# `Tensor.to` is left out: it does nothing for what is where it should be.
_CALLS = frozenset(
    {
        *(
            torch.tensor,
            torch.as_tensor,
            torch.from_numpy,
            torch.repeat_interleave,
            torch.Tensor.repeat_interleave,
        ),
        *(torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu),
    }
)
READ = "_local_scalar_dense"
_OPERATIONS = frozenset({READ, "nonzero", "masked_select", "unique_dim", "_unique2", "equal"})


class _Calls(TorchFunctionMode):
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
        if function in _CALLS:
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
        if name in ("index", "index_put_") and any(_is_mask(each) for each in arguments[1]):
            name = "nonzero"  # which it calls inside
        if name in _OPERATIONS:
            self._counted[name] += 1
        return function(*arguments, **dict(keywords or {}))


def _is_mask(index: torch.Tensor | None) -> bool:
    return index is not None and index.dtype in (torch.bool, torch.uint8)


@contextmanager
def counted_waits() -> Iterator[Counter[str]]:
    """By name, those of this thread inside of the block."""
    counted: Counter[str] = Counter()
    with _Calls(counted), _Operations(counted):
        yield counted
