"""`launch/pretrain.py` with a demo store that takes seconds to build, in one process."""

import runpy
import sys
from functools import partial
from pathlib import Path

from data_prep import demo

LAUNCH = Path(__file__).resolve().parents[2] / "launch" / "pretrain.py"
NUM_BYTES = 3_000_000

if __name__ == "__main__":
    small = partial(demo.build_demo_store, workers=1, num_bytes=NUM_BYTES)
    setattr(demo, "build_demo_store", small)  # noqa: B010 - no function for mypy to compare
    sys.argv[0] = str(LAUNCH)
    runpy.run_path(str(LAUNCH), run_name="__main__")
