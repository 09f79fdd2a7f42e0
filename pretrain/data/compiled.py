"""What the compiled loops of sampling share: the compiler's settings, and draws one at a time.

numba keeps machine code beside the source, or in the user's own cache, and makes it anew when the file of a
function changes; it does not notice a change in a file that the function calls into. So nothing here may change
what it computes, and loops that call each other lie in one file.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import numpy as np
from numba import njit

F = TypeVar("F", bound=Callable[..., object])

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_1, _27, _30, _31, _32 = (np.uint64(number) for number in (1, 27, 30, 31, 32))


def compiled(function: F) -> F:
    """`function` as machine code, made at its first call; other threads run while it does.

    It checks no index and no overflow. Integers of mixed sign become floats: counters and draws are np.uint64.
    """
    try:
        return cast(F, njit(cache=True, nogil=True, error_model="numpy")(function))
    except RuntimeError:  # Nowhere to keep it: neither this folder nor the user's cache can be written.
        return cast(F, njit(nogil=True, error_model="numpy")(function))


@compiled
def draw64(draw_key: np.uint64, counter: np.uint64) -> np.uint64:
    """The draw of one counter, as `pretrain.rng.hash64` gives it."""
    z = (counter + _1) * _GOLDEN + draw_key
    z = (z ^ (z >> _30)) * _MIX_1
    z = (z ^ (z >> _27)) * _MIX_2
    return z ^ (z >> _31)


@compiled
def below64(draw: np.uint64, bound: int) -> int:
    """Uniform in range(bound), 0 < bound < 2**31, from the high half of a draw."""
    return int(np.int64((draw >> _32) * np.uint64(bound) >> _32))
