"""Our training as a peer: `pretrain.run.train` on a rank, as the command line starts it, with a clock at its loader.

The whole loop is timed, from the moment in which one step's batches are asked for to that of the next: waiting for
data, passes, optimizer, metrics and their files. `REPLACED` says which parts can be taken away, for what others have
there.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from torch.nn.functional import dropout as torch_dropout

from pretrain import build, comm, heap
from pretrain.backends.carried import BackendName
from pretrain.build import Request
from pretrain.comm import Placement
from pretrain.config import resolve
from pretrain.data.loader import Loader, StepBatches
from pretrain.model import attention, dropout
from pretrain.model.encoder import ModelInput, PretrainingModel
from pretrain.model.flops import TrainingFlops
from pretrain.model.heads import mlm_logits
from pretrain.optim import ShardedOptimizer
from pretrain.run import train
from pretrain.signals import StopRequest
from tests.benchmarks.step_clock import StepClock, Steps, Timing, Work

NO_LABEL = -100
# Over so many steps that the clock, not the recipe, ends the run.
STEPS = 100_000


@dataclass(frozen=True)
class OurRun:
    """Engine, precision, recipe keys (`section.key=value`), and which part is replaced, if any."""

    settings: tuple[str, ...]
    backend: BackendName = "fsdp"
    stage: int = 2
    precision: str = "fp32"
    without: str = ""  # of REPLACED


def train_ours(store: Path, run: OurRun, timing: Timing, threads: int) -> Steps:
    """On a rank, collective: a run until the clock has seen enough of it."""
    torch.set_num_threads(threads)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    place = Placement(rank, rank, ranks, ranks)
    comm.prepare_environment(place)
    clock = StepClock(timing)
    with tempfile.TemporaryDirectory(prefix="training-") as folder, ExitStack() as replaced:
        output = comm.broadcast_object(folder)
        request = make_request(store, run, Path(folder), Path(output) / "run", place)
        if run.without:
            replaced.enter_context(REPLACED[run.without]())
        made, whole, flops = build.build_encoder, build.build_loader, list[TrainingFlops]()

        def build_encoder(*arguments: Any) -> PretrainingModel:
            model = made(*arguments)
            flops.append(model.flops)
            return model

        def build_loader(*arguments: Any) -> Any:
            return _Timed(whole(*arguments), clock, flops[-1])

        replaced.enter_context(patch.object(build, "build_encoder", build_encoder))
        replaced.enter_context(patch.object(build, "build_loader", build_loader))
        try:
            train(request, StopRequest())
        except _Enough:
            dist.barrier()  # the first rank's folder is everybody's
    return clock.reading()


def make_request(store: Path, run: OurRun, folder: Path, output: Path, place: Placement) -> Request:
    """What the command line would ask for."""
    recipe, ds_config = folder / "recipe.toml", folder / "ds_config.json"
    recipe.write_text("")
    ds_config.write_text(
        json.dumps({"zero_optimization": {"stage": run.stage}, "bf16": {"enabled": run.precision == "bf16"}})
    )
    config = resolve(
        recipe_path=recipe,
        default_recipe=recipe,
        ds_config_path=ds_config,
        overrides=(f"train.steps={STEPS}", "checkpoint.every=0", "eval.rows=16", *run.settings),
        world_size=place.world_size,
    )
    return Request(config, run.backend, store, output, "never", place, comm.device(place))


class _Enough(Exception):
    """The clock has seen enough."""


class _Timed:
    """A loader whose consumer asks for the next step when one is done."""

    def __init__(self, loader: Loader, clock: StepClock, flops: TrainingFlops) -> None:
        self._loader, self._clock, self._flops = loader, clock, flops
        self._asked = Work(0)  # of the step that was last asked for

    def __iter__(self) -> Iterator[StepBatches]:
        return self

    def __next__(self) -> StepBatches:
        if not self._clock.has_begun:
            self._clock.begin()
        elif self._clock.step(self._asked):
            raise _Enough
        began = time.perf_counter()
        batches = next(self._loader)
        waited = time.perf_counter() - began
        attended = batches.num_attended / batches.num_tokens
        flops = self._flops.step(batches.num_tokens, batches.num_masked, attended, batches.num_pairs)
        own = batches.micro_batches
        tokens, computed = (
            sum(batch.num_tokens for batch in own),
            sum(batch.input_ids.numel() for batch in own),
        )
        self._asked = Work(tokens, computed, waited, flops)
        return batches

    def __enter__(self) -> "_Timed":
        return self

    def __exit__(self, *_: object) -> None:
        self._loader.close()


class WholeHead(PretrainingModel):
    """Logits of every position, as the encoders of transformers have them; labels at the masked ones."""

    def forward(self, batch: ModelInput, detail: bool = False) -> tuple[torch.Tensor, ...]:
        if detail:
            return super().forward(batch, detail)
        hidden = self._hidden_states(batch).flatten(0, 1)
        labels = torch.full(hidden.shape[:1], NO_LABEL, device=hidden.device)
        labels[batch.masked_positions] = batch.masked_labels
        logits = mlm_logits(self.encoder, hidden).float()
        loss = cross_entropy(logits, labels, ignore_index=NO_LABEL, reduction="sum")
        return loss, loss.new_zeros(())


class TorchAdamW(ShardedOptimizer):
    """torch's fused AdamW behind its `clip_grad_norm_`, as the peers have them, over the same shards."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        pending = self._pending
        assert pending is not None and pending.lr is not None
        tensors = [shard.tensor for shard in self.layout.shards]
        if not hasattr(self, "_torch"):
            self._torch = torch.optim.AdamW(tensors, weight_decay=self.weight_decay, fused=True)
        self._torch.param_groups[0]["lr"] = pending.lr
        pending.grad_norm = float(torch.nn.utils.clip_grad_norm_(tensors, self.max_grad_norm, foreach=True))
        pending.stepped.update(range(len(tensors)))
        self._torch.step()


class ForegroundLoader(Loader):
    """Makes a step's batches when they are asked for, while the consumer waits."""

    def __next__(self) -> StepBatches:
        self._free.release()
        made = self._ready.get()
        assert isinstance(made, StepBatches)
        return made


def _whole_head() -> AbstractContextManager[object]:
    made = build.build_model

    def build_model(*arguments: Any, **keywords: Any) -> PretrainingModel:
        return WholeHead(made(*arguments, **keywords).encoder)

    return patch.object(build, "build_model", build_model)


@contextmanager
def _torch_dropout() -> Iterator[None]:
    def attend(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor,
        p: float,
        scale: float,
    ) -> torch.Tensor:
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=p, scale=scale)

    with patch.object(dropout, "dropped", torch_dropout), patch.object(attention, "_with_dropout", attend):
        yield


REPLACED: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "masked-only head": _whole_head,
    "our optimizer": partial(patch.object, build, "ShardedOptimizer", TorchAdamW),
    "our dropout": _torch_dropout,
    "kept memory": partial(patch.object, heap, "keep_freed_memory", lambda _: False),
    "background loader": partial(patch.object, build, "Loader", partial(ForegroundLoader, depth=0)),
}
