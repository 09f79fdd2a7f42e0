"""HF Trainer as a peer on GPUs, with what ours can choose too: attention dropout, `torch_compile`, loader workers.

What a step holds is counted where its batches are made, on the CPU: to count on the device would make the host wait
for it at every step.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForMaskedLM, PreTrainedModel, Trainer, TrainerCallback
from transformers.training_args import ParallelMode

from pretrain import comm
from pretrain.data.store import TokenStore
from pretrain.model.flops import TrainingFlops, count_training_flops
from pretrain.model.presets import preset_config
from tests.benchmarks.step_clock import StepClock, Steps, Timing, Work
from tests.benchmarks.training_ours import NO_LABEL
from tests.benchmarks.training_peers import SEED, PeerRun, make_collator, trainer_arguments
from tests.benchmarks.training_text import open_samples

# Keeping the columns keeps the mask of special tokens, which the collator makes by a loop over all tokens otherwise.
TUNED = {
    "dataloader_persistent_workers": True,
    "ddp_find_unused_parameters": False,
    "logging_nan_inf_filter": False,
    "remove_unused_columns": False,
}
# Of a batch: real tokens, over all of them the tokens that each attends to, and masked tokens.
COUNTS = "counts"


@dataclass(frozen=True)
class TrainerRun(PeerRun):
    """What else is chosen; the defaults are Trainer's. `tuned`: what a careful user would say besides, so that the host
    does not wait for the device at every pass, nor for its data."""

    attention_dropout: bool = True
    compile: bool = False
    tuned: bool = False


@dataclass(frozen=True)
class Counting:
    """A collator that says how much is in its batch; in a worker of the loader too."""

    collate: Any

    def __call__(self, samples: list[Mapping[str, Any]]) -> dict[str, Any]:
        batch = dict(self.collate(samples))
        masked = int((batch["labels"] != NO_LABEL).sum())
        lengths = batch["attention_mask"].sum(dim=1)
        return batch | {COUNTS: (int(lengths.sum()), int(lengths.square().sum()), masked)}


class CountingTrainer(Trainer):
    """Takes the counts out of a batch before it goes to the model."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self._counts: list[tuple[int, ...]] = []

    def training_step(self, model: Any, inputs: dict[str, Any], *others: Any, **named: Any) -> torch.Tensor:
        self._counts.append(tuple(inputs.pop(COUNTS)))
        return super().training_step(model, inputs, *others, **named)

    def taken(self) -> tuple[int, ...]:
        """The sums of all counts since the last look."""
        totals = tuple(map(sum, zip(*self._counts, strict=True)))
        self._counts.clear()
        return totals


class _Clocked(TrainerCallback):
    """Tells the clock of every step, and ends the training."""

    def __init__(self, clock: StepClock, flops: TrainingFlops, ranks: int) -> None:
        self._clock, self._flops, self._ranks = clock, flops, ranks
        self.trainer: CountingTrainer | None = None

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._clock.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self.trainer is not None
        tokens, attended, masked = self.trainer.taken()
        # As many on every rank, or nearly.
        flops = self._flops.step(tokens, masked, attended / tokens) * self._ranks
        control.should_training_stop = self._clock.step(Work(tokens, flops=flops))


def train_trainer(store: Path, cache: Path, run: TrainerRun, timing: Timing) -> Steps:
    """On a rank that has joined the others: until the clock has seen enough."""
    torch.manual_seed(SEED)
    opened, clock = TokenStore.open(store), StepClock(timing)
    model = make_model(opened, run)
    ranks = len(comm.all_gather_objects(None))
    samples = open_samples(cache, opened, run.form, run.seq_len)
    clocked = _Clocked(clock, count_training_flops(model), ranks)
    with tempfile.TemporaryDirectory(prefix="trainer-") as folder:
        # The last rows of an epoch would be of another shape, and compiled anew.
        arguments = trainer_arguments(
            run, folder, torch_compile=run.compile, dataloader_drop_last=True, **(TUNED if run.tuned else {})
        )
        if (arguments.parallel_mode == ParallelMode.DISTRIBUTED) != (ranks > 1):
            raise RuntimeError(f"On {ranks} rank(s) Trainer is {arguments.parallel_mode}: see gpu_rank.py.")
        clocked.trainer = CountingTrainer(
            model=model,
            args=arguments,
            train_dataset=samples.remove_columns("length") if run.tuned else samples,
            data_collator=Counting(make_collator(opened, run)),
            callbacks=[clocked],
        )
        clocked.trainer.train()
    return clock.reading()


def make_model(store: TokenStore, run: TrainerRun) -> PreTrainedModel:
    """Of the preset's config, without attention dropout where that is chosen."""
    config = preset_config(run.preset, store.vocab_size)
    config.pad_token_id = store.special_ids["pad"]
    if not run.attention_dropout:
        config.attention_probs_dropout_prob = 0.0
    return AutoModelForMaskedLM.from_config(config)
