"""torch.compile for the encoder layers, one by one.

Layers of one kind share one graph, so that a model of any depth compiles in the time of one layer. Only a layer's
own `forward` is compiled: hooks, by which engines gather weights and reduce gradients, stay around it and interrupt
nothing.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._dynamo.utils import counters


def compile_in_training(layer: nn.Module) -> None:
    """Replaces the layer's `forward` in place; compiled at its first call in training, for shapes that stay.

    To be called once an engine has wrapped the layer. In evaluation, whose batches have shapes of their own, the
    layer runs uncompiled.
    """
    plain, compiled = layer.forward, torch.compile(layer.forward, dynamic=False)

    def forward(*args: Any, **kwargs: Any) -> Any:
        chosen: Callable[..., Any] = compiled if layer.training else plain
        return chosen(*args, **kwargs)

    layer.forward = forward


def compilation_report() -> list[str]:
    """How many graphs this process has compiled, and why compiled code was interrupted, as torch says it; lines."""
    breaks = counters["graph_break"]
    found = f"{len(breaks)} kind(s) of graph break" if breaks else "no graph break"
    reasons = [f"  {times} x {reason.strip().splitlines()[0]}" for reason, times in breaks.items()]
    return [f"torch.compile: {counters['stats']['unique_graphs']} graph(s), {found}", *reasons]
