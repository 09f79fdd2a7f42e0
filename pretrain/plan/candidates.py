"""Candidates of the search (`tuning`), measured on this machine's device in one process.

A candidate is so many rows of the run, forward and backward through its model with random weights (`passes`). Its rate
is that of one rank; its memory is the plan's for a rank of the run - weights, moments, gradients and buffers under the
chosen stage on all ranks - with the activations that were measured. On the CPU, where too much memory ends other
processes, a candidate that is too large by the plan's traced activations is not measured; a GPU says itself that it
has too little.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import gcd
from time import perf_counter

import psutil
import torch

from pretrain import build, comm, heap
from pretrain.data.batches import Batch
from pretrain.data.corpus import Corpus
from pretrain.errors import UsageError
from pretrain.plan.fitting import Checkpointing, checkpointing_ways, peak_with, with_checkpointing
from pretrain.plan.passes import Passes
from pretrain.plan.planning import Plan, Way
from pretrain.plan.rows import first_rows
from pretrain.plan.tables import gib
from pretrain.plan.tuning import LONGEST_PASS, Limits, NotTried, Search, TooLarge, Trial, search

_MOST_PASSES = 20


@dataclass(frozen=True)
class Tuning:
    """`share`: rows of a rank in a step; `device`: its name; `threads`: on the CPU."""

    search: Search
    device: str
    threads: int | None
    share: int
    compiled: bool
    advice: tuple[str, ...]

    @property
    def overrides(self) -> tuple[str, ...]:
        """Of the recommended candidate, as they are typed."""
        best = self.search.best
        if best is None:
            return ()
        return (
            f"train.micro_batch={best.rows}",
            f"train.activation_checkpointing={best.checkpointing}",
        )

    @property
    def accumulation(self) -> int | None:
        """Micro-batches of a step, of each rank."""
        return None if self.search.best is None else self.share // self.search.best.rows


def tune(plan: Plan, corpus: Corpus, seconds: float, say: Callable[[Trial | NotTried], None]) -> Tuning:
    """Each candidate is timed for so many seconds, on a device of the run's kind, which has to be here. Raises
    UsageError where the recipe compiles and nothing here can."""
    asked, recipe = plan.asked, plan.asked.config.recipe
    device = torch.device(asked.device)
    missing = comm.missing_for_compiling(device) if recipe.train.compile else None
    if missing is not None:
        raise UsageError(f"train.compile needs {missing} on this machine: install it, or say false.")
    sizes = recipe.train.batch_plan.sizes
    limits = Limits(common_rows=gcd(*sizes) // asked.ranks, seconds=LONGEST_PASS * seconds)
    measurer = _DeviceMeasurer(plan, corpus, device, seconds)
    before, threads = torch.get_num_threads(), max(1, comm.num_cores() // asked.ranks_per_node)
    torch.set_num_threads(threads)  # as many as a rank has
    heap.keep_freed_memory(device)  # as a run does
    try:
        found = search(measurer, checkpointing_ways(recipe), limits, say)
    finally:
        torch.set_num_threads(before)
    on_cpu, share = device.type == "cpu", recipe.train.global_batch // asked.ranks
    return Tuning(
        search=found,
        device="CPU" if on_cpu else torch.cuda.get_device_name(device),
        threads=threads if on_cpu else None,
        share=share,
        compiled=recipe.train.compile,
        advice=() if found.best is None else _advice(plan, found.best.rows, share // found.best.rows),
    )


def _advice(plan: Plan, micro_batch: int, accumulation: int) -> tuple[str, ...]:
    """What stands in the way of the overrides: a ds_config that says otherwise."""
    engine = plan.asked.config.engine
    said = (
        ("train_micro_batch_size_per_gpu", engine.train_micro_batch_size_per_gpu, micro_batch),
        ("gradient_accumulation_steps", engine.gradient_accumulation_steps, accumulation),
    )
    return tuple(
        f'The ds_config says {key}: {value}, which does not go with it: write "auto" there.'
        for key, value, found in said
        if value not in ("auto", found)
    )


class _DeviceMeasurer:
    """Keeps the model of one way of checkpointing at a time."""

    def __init__(self, plan: Plan, corpus: Corpus, device: torch.device, seconds: float) -> None:
        self._plan, self._corpus, self._device, self._seconds = plan, corpus, device, seconds
        self._stage = plan.asked.config.engine.stage
        self._way: Way = plan.memory_model.way(self._stage)
        self._held: tuple[Checkpointing, Passes] | None = None

    def measure(self, checkpointing: Checkpointing, rows: int) -> Trial:
        limit = self._plan.asked.memory_bytes
        if self._device.type == "cpu" and limit is not None:
            room = min(limit, psutil.virtual_memory().available)
            planned = self._peak(self._traced(checkpointing, rows), rows)
            if planned > room:
                where = gib(limit) if room == limit else f"{gib(room)} that are free here"
                raise TooLarge(f"by the plan a rank would take {gib(planned)} of {where}")
        batch = first_rows(self._corpus, self._plan.asked.config.recipe, rows).batch(0, rows)
        try:
            seconds, activations = self._measured(checkpointing, batch)
        except torch.OutOfMemoryError:
            too_little = True
        else:
            too_little = False
        if too_little:  # not in the handler: the error's frames hold what is to be given back
            self._held = None
            self._give_back()
            raise TooLarge("out of memory on this device")
        peak = self._peak(activations, rows)
        fits = None if limit is None else peak <= limit
        return Trial(checkpointing, rows, batch.num_tokens, seconds, activations, peak, fits)

    def _measured(self, checkpointing: Checkpointing, batch: Batch) -> tuple[float, int]:
        """(seconds of the quickest pass, as other work only makes them slower; bytes of its activations)."""
        compiled = self._plan.asked.config.recipe.train.compile
        if compiled:
            torch.compiler.reset()  # else torch stops compiling after some shapes
        passes, on_device = self._passes(checkpointing), batch.to(self._device)
        if compiled or self._device.type == "cuda":
            passes.take(on_device)  # compiles, chooses kernels and takes their work space
        activations = passes.peak_bytes(on_device)
        began, taken = perf_counter(), list[float]()
        while not taken or (perf_counter() - began < self._seconds and len(taken) < _MOST_PASSES):
            taken.append(passes.seconds(on_device))
        return min(taken), activations

    def _passes(self, checkpointing: Checkpointing) -> Passes:
        if self._held is None or self._held[0] != checkpointing:
            self._held = None
            self._give_back()
            recipe = with_checkpointing(self._plan.asked.config.recipe, checkpointing)
            model = build.build_encoder(recipe, self._corpus.first)
            passes = Passes(model, self._device, *self._way, compiled=recipe.train.compile)
            self._held = (checkpointing, passes)
        return self._held[1]

    def _give_back(self) -> None:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        else:
            heap.give_back()

    def _traced(self, checkpointing: Checkpointing, rows: int) -> int:
        recipe = with_checkpointing(self._plan.asked.config.recipe, checkpointing)
        model = build.build_encoder(recipe, self._corpus.first, on_meta=True)
        return replace(self._plan.memory_model, model=model).activations(self._way, rows)

    def _peak(self, activations: int, rows: int) -> int:
        return peak_with(self._plan.memory_model, self._stage, activations, rows, self._plan.libraries).peak
