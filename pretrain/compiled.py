"""Machine code for inner loops, by numba: made at the first call, and kept on disk for the next process.

numba keeps machine code beside the source, or in the user's own cache, and makes it anew when the file of a
function changes; it does not notice a change in a file that the function calls into. So loops that call each other
lie in one file, or call only what never changes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import carray, njit, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

# What numba would register at the first call of a compiled function, while another thread may be looking types up in
# the same tables for its own first call: "dictionary changed size during iteration".
cpu_target.typing_context.refresh()
cpu_target.target_context.refresh()


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as machine code; other threads run while it does.

    It checks no index and no overflow. Integers of mixed sign become floats.
    """
    return _machine_code(function)


def compiled_sum(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same for a loop that adds up: the terms of a sum are taken in the order that suits the processor.

    One after the other, each would wait for the one before. The order is the same in every call on one machine.
    """
    return _machine_code(function, fastmath={"reassoc", "nsz"})


def _machine_code(function: Callable[..., Any], **settings: Any) -> Callable[..., Any]:
    try:
        return njit(cache=True, nogil=True, error_model="numpy", **settings)(function)
    except RuntimeError:  # Nowhere to keep it: neither this folder nor the user's cache can be written.
        return njit(nogil=True, error_model="numpy", **settings)(function)


@intrinsic
def _pointer(typing_context: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


@compiled
def array_at(address: int, first: int, last: int, like: np.ndarray) -> np.ndarray:
    """Elements `first` .. `last` of the 1-D array at `address`, of the dtype of `like`; for compiled loops alone.

    A loop that gets addresses walks any number of arrays in one call. Nothing is checked here.
    """
    return carray(_pointer(address + first * like.itemsize), (last - first,), like.dtype)
