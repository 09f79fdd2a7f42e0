"""Nothing may drown what is found: libraries write past Python, on the descriptor itself."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """What this process writes on standard error is lost meanwhile: torch's C++ writes a page of frames about each try
    to reach another process, its profiler that it begins and ends, and their levels are set by the environment alone,
    before torch is there."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
