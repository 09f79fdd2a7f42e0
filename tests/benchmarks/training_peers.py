"""Training by others on the same text: HF Trainer, torch DDP by hand, accelerate with DeepSpeed.

Each trains `BertForMaskedLM` of our preset's config from random weights, by torch's fused AdamW, on samples that
`DataCollatorForLanguageModeling` pads and masks, as `run_mlm.py` does. Tokens are counted where the model is called, by
the attention mask, padding left out. In bf16 they run under autocast, which casts operator by operator; ours casts
the weights (FSDP's MixedPrecisionPolicy), so that all but the loss and the optimizer computes in bf16.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from pretrain import cores, heap
from pretrain.comm import Placement
from pretrain.data.store import TokenStore
from pretrain.model.presets import preset_config
from tests.benchmarks.measure import NotRun
from tests.benchmarks.step_clock import StepClock, Steps, Timing, Work
from tests.benchmarks.training_text import open_samples

LR, SEED, MAX_STEPS = 1e-4, 7, 100_000


@dataclass(frozen=True)
class PeerRun:
    """`rows` per rank and forward pass, `accumulation` of these a step. `padding`: to the longest sample of a forward
    pass (the default) or to `seq_len`. `sampling`: Trainer's `train_sampling_strategy`; `workers`: its
    `dataloader_num_workers`; `memory_kept`: freed memory stays with the process, as it does in our runs on CPUs."""

    kind: str  # of LOOPS
    form: str  # of the text
    preset: str
    seq_len: int
    rows: int
    accumulation: int = 1
    padding: str = "longest"
    sampling: str = "random"
    precision: str = "fp32"
    stage: int = 2  # of DeepSpeed
    workers: int = 0
    memory_kept: bool = False


def train_peer(store: Path, cache: Path, run: PeerRun, timing: Timing, threads: int) -> Steps:
    """On a rank, collective: a loop until the clock has seen enough of it."""
    torch.set_num_threads(threads)
    cores.share(here(), _device())
    if run.memory_kept:
        heap.keep_freed_memory(_device())
    torch.manual_seed(SEED)
    opened = TokenStore.open(store)
    samples = open_samples(cache, opened, run.form, run.seq_len)
    clock = StepClock(timing)
    model = make_model(opened, run.preset)
    LOOPS[run.kind](run, model, samples, make_collator(opened, run), clock)
    return clock.reading()


def here() -> Placement:
    """Of this rank, on the one machine of all."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    return Placement(rank, rank, ranks, ranks)


def make_model(store: TokenStore, preset: str) -> PreTrainedModel:
    config = preset_config(preset, store.vocab_size)
    config.pad_token_id = store.special_ids["pad"]
    return AutoModelForMaskedLM.from_config(config)


def make_collator(store: TokenStore, run: PeerRun) -> DataCollatorForLanguageModeling:
    tokenizer = AutoTokenizer.from_pretrained(str(store.tokenizer_path))
    # No sample is longer than seq_len, so that its multiple is seq_len itself.
    multiple = run.seq_len if run.padding == "max_length" else None
    return DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15, pad_to_multiple_of=multiple)


class TokenCount:
    """What a model has seen since the last look: real tokens, and places with padding."""

    def __init__(self, model: nn.Module) -> None:
        self._seen: list[torch.Tensor] = []
        self._computed = 0
        model.register_forward_pre_hook(self._count, with_kwargs=True)

    def taken(self) -> Work:
        work = Work(int(torch.stack(self._seen).sum()), self._computed)
        self._seen.clear()
        self._computed = 0
        return work

    def _count(self, module: nn.Module, arguments: Any, keywords: dict[str, Any]) -> None:
        mask = keywords["attention_mask"]
        self._seen.append(mask.sum())
        self._computed += mask.numel()


class _Timer(TrainerCallback):
    """Tells the clock of Trainer's steps, and ends it."""

    def __init__(self, clock: StepClock, count: TokenCount) -> None:
        self._clock, self._count = clock, count

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._clock.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = self._clock.step(self._count.taken())


def _by_trainer(
    run: PeerRun,
    model: PreTrainedModel,
    samples: datasets.Dataset,
    collate: DataCollatorForLanguageModeling,
    clock: StepClock,
) -> None:
    if dist.get_world_size() > 1:
        _look_launched()
    with tempfile.TemporaryDirectory(prefix="trainer-") as folder:
        arguments = trainer_arguments(run, folder)
        if arguments.world_size != dist.get_world_size():
            raise RuntimeError(f"Trainer sees {arguments.world_size} rank(s) of {dist.get_world_size()}.")
        timer = _Timer(clock, TokenCount(model))
        Trainer(
            model=model, args=arguments, train_dataset=samples, data_collator=collate, callbacks=[timer]
        ).train()


def trainer_arguments(run: PeerRun, folder: str, **others: Any) -> TrainingArguments:
    """The defaults, but for what says the run. Raises NotRun where accelerate is not installed."""
    try:
        return TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=run.rows,
            gradient_accumulation_steps=run.accumulation,
            train_sampling_strategy=run.sampling,
            dataloader_num_workers=run.workers,
            bf16=run.precision == "bf16",
            use_cpu=not torch.cuda.is_available(),
            seed=SEED,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **{"learning_rate": LR, "max_steps": MAX_STEPS} | others,
        )
    except ImportError as error:
        raise NotRun(f"HF Trainer needs accelerate: {error}") from error


def _by_hand(
    run: PeerRun,
    model: PreTrainedModel,
    samples: datasets.Dataset,
    collate: DataCollatorForLanguageModeling,
    clock: StepClock,
) -> None:
    """DistributedDataParallel, gradients exchanged once a step."""
    count, device = TokenCount(model), _device()
    nn.Module.to(model, device)
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(parallel.parameters(), lr=LR, fused=True)
    parallel.train()
    clock.begin()
    for micro_batches in _steps(run, _endless(run, samples, collate)):
        for number, batch in enumerate(micro_batches):
            last = number == run.accumulation - 1
            with nullcontext() if last else parallel.no_sync(), _autocast(run):
                loss = parallel(**{name: each.to(device) for name, each in batch.items()}).loss
            # Outside of no_sync a backward pass exchanges whatever has been accumulated.
            (loss / run.accumulation).backward()
        nn.utils.clip_grad_norm_(parallel.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if clock.step(count.taken()):
            return


def _by_accelerate(
    run: PeerRun,
    model: PreTrainedModel,
    samples: datasets.Dataset,
    collate: DataCollatorForLanguageModeling,
    clock: StepClock,
) -> None:
    """Its DeepSpeed plugin around the plain loop of its documentation."""
    _look_launched()
    os.environ |= {"ACCELERATE_USE_DEEPSPEED": "true"}
    try:
        from accelerate import Accelerator, DeepSpeedPlugin
        from deepspeed import ops
    except ImportError as error:
        raise NotRun(f"accelerate with DeepSpeed is not installed: {error}") from error
    # gloo for all peers: DeepSpeed's own exchange through shared memory compiles for half a minute at its first start.
    ops.__compatible_ops__["deepspeed_shm_comm"] = False
    plugin = DeepSpeedPlugin(
        zero_stage=run.stage, gradient_accumulation_steps=run.accumulation, gradient_clipping=1.0
    )
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        deepspeed_plugin=plugin,
        mixed_precision="bf16" if run.precision == "bf16" else "no",
    )
    count = TokenCount(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, fused=True)
    loader = DataLoader(samples.remove_columns("length"), run.rows, shuffle=True, collate_fn=collate)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    model.train()
    clock.begin()
    for micro_batches in _steps(run, iter(loader)):
        for batch in micro_batches:
            with accelerator.accumulate(model):
                accelerator.backward(model(**batch).loss)
                optimizer.step()
                optimizer.zero_grad()
        if clock.step(count.taken()):
            return


def _look_launched() -> None:
    """What torchrun would say to accelerate, which joins the process group that is there."""
    place = here()
    os.environ |= {"RANK": str(place.rank), "LOCAL_RANK": str(place.local_rank)}
    os.environ |= {"WORLD_SIZE": str(place.world_size), "LOCAL_WORLD_SIZE": str(place.local_world_size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def _endless(
    run: PeerRun, samples: datasets.Dataset, collate: DataCollatorForLanguageModeling
) -> Iterator[dict[str, torch.Tensor]]:
    """This rank's micro-batches, epoch after epoch."""
    chosen = samples.remove_columns("length")
    sampler: DistributedSampler[Any] = DistributedSampler(chosen, seed=SEED)
    for epoch in range(MAX_STEPS):
        sampler.set_epoch(epoch)
        yield from DataLoader(chosen, run.rows, sampler=sampler, collate_fn=collate, drop_last=True)


def _steps(run: PeerRun, batches: Iterator[Any]) -> Iterator[Iterator[Any]]:
    """The micro-batches of one step after another, each made when it is asked for."""
    for _ in range(MAX_STEPS):
        yield (next(batches) for _ in range(run.accumulation))


def _device() -> torch.device:
    return (
        torch.device("cuda", torch.cuda.current_device())
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def _autocast(run: PeerRun) -> torch.autocast:
    return torch.autocast(_device().type, torch.bfloat16, enabled=run.precision == "bf16")


LOOPS: dict[str, Callable[..., None]] = {
    "trainer": _by_trainer,
    "ddp": _by_hand,
    "accelerate": _by_accelerate,
}
