"""`launch/pretrain.py` with something wrong in it: `faulty.py ARGUMENTS...`, and `FAULT` in the environment.

`FAULT` is JSON: {"where": ..., "rank": which one (absent: all), "call": the how many-th (absent: every),
"seconds": how long it sleeps}.
"""

import json
import os
import runpy
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from data_prep import demo  # noqa: E402
from pretrain import build  # noqa: E402
from pretrain.checkpoint import Saver  # noqa: E402
from pretrain.data.loader import Loader  # noqa: E402
from pretrain.evaluate import Evaluator  # noqa: E402

LAUNCH = ROOT / "launch" / "pretrain.py"
PLACES: dict[str, tuple[Any, str]] = {
    "reading data": (Loader, "_step_batches"),
    "saving": (Saver, "begin"),
    "validating": (Evaluator, "_agree_to_go_on"),
    "building": (build, "build_encoder"),
}
SLICE_SECONDS = 0.05
DEMO_BYTES = 3_000_000  # some seconds of building


def sleeping(function: Callable[..., Any], fault: dict[str, Any]) -> Callable[..., Any]:
    """`function`, which sleeps before its work at one call, or without "call" at every one."""
    calls = 0

    def replaced(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if fault.get("call", calls) == calls:
            print(f"faulty: {fault['where']}", flush=True)
            for _ in range(
                round(fault["seconds"] / SLICE_SECONDS)
            ):  # a process that is stopped sleeps no less
                time.sleep(SLICE_SECONDS)
        return function(*args, **kwargs)

    return replaced


def main() -> None:
    fault = json.loads(os.environ.get("FAULT", "{}"))
    if fault and fault.get("rank", int(os.environ["RANK"])) == int(os.environ["RANK"]):
        owner, name = PLACES[fault["where"]]
        setattr(owner, name, sleeping(getattr(owner, name), fault))
    small = partial(demo.build_demo_store, workers=1, num_bytes=DEMO_BYTES)
    setattr(demo, "build_demo_store", small)  # noqa: B010 - no function for mypy to compare
    runpy.run_path(str(LAUNCH), run_name="__main__")


if __name__ == "__main__":
    main()
