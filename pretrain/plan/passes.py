"""Real forward and backward passes of a model on a device of this machine: their time and their memory.

The model stands alone, without an engine: its weights have the type in which the engine's passes compute (DeepSpeed's
stage 0 in half precision: fp32 under autocast), gradients go as soon as they are there, and no moment, master weight or
bucket is held. So a model whose states fit only when they are sharded can be measured by one process. What an engine
does between passes - it gathers weights, adds up gradients and exchanges them - is not in the time. It takes as long
however many rows a micro-batch has: larger micro-batches gain by it what is not measured here.

Memory is what the allocator gave out at the peak beyond what was held before: torch.cuda's own count on a GPU, the
profiler's record of every allocation on the CPU.
"""

from collections.abc import Callable
from contextlib import nullcontext
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from pretrain.backends.base import LossWeights
from pretrain.data.batches import Batch
from pretrain.model import PretrainingModel
from pretrain.said.quiet import quiet_libraries


class Passes:
    """Of one model, which is moved to `device` and cast to `dtype`; `autocast`: the type that its passes compute in,
    where that is another. With `compiled` its layers are compiled anew for every shape of batch."""

    def __init__(
        self,
        model: PretrainingModel,
        device: torch.device,
        dtype: torch.dtype,
        autocast: torch.dtype | None = None,
        compiled: bool = False,
    ) -> None:
        self._model, self._device, self._autocast = model.to(device, dtype), device, autocast
        self._model.train()
        for parameter in self._model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(_drop_gradient)
        if compiled:
            self._model.compile_blocks()

    def take(self, batch: Batch) -> None:
        """One forward and backward pass over a batch that is on the device. Raises torch.OutOfMemoryError."""
        weights = LossWeights.of_means(batch.num_masked, batch.num_pairs)
        with nullcontext() if self._autocast is None else torch.autocast(self._device.type, self._autocast):
            mlm_sum, nsp_sum = self._model(batch)
        (mlm_sum * weights.mlm + nsp_sum * weights.nsp).backward()

    def seconds(self, batch: Batch) -> float:
        """Of one pass."""
        self._wait()
        began = perf_counter()
        self.take(batch)
        self._wait()
        return perf_counter() - began

    def peak_bytes(self, batch: Batch) -> int:
        """Beyond weights and batch, at the peak of one pass."""
        if self._device.type != "cuda":
            return allocated_at_peak(lambda: self.take(batch))
        self._wait()
        held = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        self.take(batch)
        self._wait()
        return torch.cuda.max_memory_allocated(self._device) - held

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def allocated_at_peak(action: Callable[[], Any]) -> int:
    """Bytes that torch has allocated on the CPU at the peak of `action`, beyond those before it."""
    with quiet_libraries(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        action()
    recorded: Any = profiler.profiler
    changes = [each for each in recorded.kineto_results.events() if each.name() == "[memory]"]
    now = peak = 0
    for change in sorted(changes, key=lambda each: each.start_ns()):
        now += change.nbytes()
        peak = max(peak, now)
    return peak


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None
