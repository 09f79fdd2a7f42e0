"""The training script with something wrong in it: `faulty.py --script=PATH --fault=FAULT ARGUMENTS...`, on every rank.

`FAULT` is JSON: {"where": one of `PLACES` or `STRIKES`, "rank": which one (absent: all), "call": the how many-th
(absent: every), "seconds": how long it sleeps, or how far a clock jumps}; {} for none.
"""

import argparse
import json
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

if __name__ == "__main__":
    # Python puts this script's folder first on the path.
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch

from pretrain import build, comm
from pretrain.checkpoint import Saver
from pretrain.data.loader import Loader
from pretrain.evaluate import Evaluator

PLACES: MappingProxyType[str, tuple[Any, str]] = MappingProxyType(
    {
        "reading data": (Loader, "_step_batches"),
        "saving": (Saver, "begin"),
        "writing": (Saver, "_write"),
        "validating": (Evaluator, "_agree_to_go_on"),
        "building": (build, "build_encoder"),
    }
)
NOT_FINITE_LAYER = "bert.encoder.layer.1.intermediate.dense"
_SLICE_SECONDS = 0.05


def sleeping(function: Callable[..., Any], fault: dict[str, Any]) -> Callable[..., Any]:
    """`function`, which sleeps before its work at one call, or without "call" at every one."""
    calls = 0

    def replaced(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if fault.get("call", calls) == calls:
            print(f"faulty: {fault['where']}", file=sys.__stdout__, flush=True)  # of any rank
            for _ in range(round(fault["seconds"] / _SLICE_SECONDS)):  # a stopped process sleeps no less
                time.sleep(_SLICE_SECONDS)
        return function(*args, **kwargs)

    return replaced


def spoil_a_batch(fault: dict[str, Any]) -> None:
    """NaN in a layer's output whenever one micro-batch comes by: the one of the "call"-th forward pass."""
    original = build.build_encoder
    calls, bad, is_here = 0, list[torch.Tensor](), False

    def look(module: Any, inputs: tuple[Any, ...]) -> None:
        nonlocal calls, is_here
        calls += 1
        if calls == fault["call"]:
            bad.append(inputs[0].input_ids.clone())
        is_here = any(torch.equal(inputs[0].input_ids, each) for each in bad)

    def strike(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
        return output * torch.nan if is_here else None

    def spoiled(*args: Any) -> Any:
        model = original(*args)
        model.register_forward_pre_hook(look)
        model.encoder.get_submodule(NOT_FINITE_LAYER).register_forward_hook(strike)
        return model

    setattr(build, "build_encoder", spoiled)  # noqa: B010 - no function for mypy to compare


def jump_the_clock(fault: dict[str, Any]) -> None:
    """The time of day is another from the "call"-th reading of data on."""
    original, now, now_ns = Loader._step_batches, time.time, time.time_ns
    calls = 0

    def jumped(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == fault["call"]:
            _replace_everywhere(now, lambda: now() + fault["seconds"])
            _replace_everywhere(now_ns, lambda: now_ns() + round(fault["seconds"] * 1e9))
            print("faulty: clock", file=sys.__stdout__, flush=True)
        return original(*args)

    setattr(Loader, "_step_batches", jumped)  # noqa: B010


def _replace_everywhere(function: Callable[[], object], other: Callable[[], object]) -> None:
    """In each module that has it by a name of its own, as `from time import time` gives it."""
    for module in list(sys.modules.values()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is function:
                setattr(module, name, other)


STRIKES: MappingProxyType[str, Callable[[dict[str, Any]], None]] = MappingProxyType(
    {"a batch": spoil_a_batch, "clock": jump_the_clock}
)


def main(arguments: list[str]) -> None:
    """Runs the script as the main program, with the fault in it where this rank has it."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--script", required=True)
    parser.add_argument("--fault", type=json.loads, required=True)
    ours, others = parser.parse_known_args(arguments)  # deepspeed puts an option of its own first
    fault: dict[str, Any] = ours.fault
    if fault and fault.get("rank", comm.placement().rank) == comm.placement().rank:
        if fault["where"] in STRIKES:
            STRIKES[fault["where"]](fault)
        else:
            owner, name = PLACES[fault["where"]]
            setattr(owner, name, sleeping(getattr(owner, name), fault))
    sys.argv = [ours.script, *others]
    runpy.run_path(ours.script, run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
