"""Machine code for the inner loops, by numba: made at the first call, and kept on disk for the next process."""

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """By numba, kept on disk where there is any folder for it."""
    try:
        return njit(cache=True, error_model="numpy")(function)
    except RuntimeError:  # numba found no folder to write to
        return njit(error_model="numpy")(function)
