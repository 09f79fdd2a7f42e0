"""Rates of BERT-large pretraining on 1 to 256 GPUs as NVIDIA publishes them, beside what the model of a step says.

DeepLearningExamples, PyTorch/LanguageModeling/BERT/README.md ("Training performance results", commit 729963d of 2024):
sequences per second on DGX A100 80GB and DGX-1 V100 32GB, averaged over a few iterations. Its all-reduce is of the
gradients in their own type, all in one bucket after the last backward pass (`run_pretraining.py`: `bucket_cap_mb` is
the GPU's memory), on the last of the accumulated micro-batches. Its LAMB exchanges nothing besides.

The row of one GPU says how fast a GPU computes; all others are predicted from it, by the figures that `plan --gpus` has
where nothing is said (of V100: by its data sheet, as below), but with gradients of their own type, which no run of this
project sums. No figure is fitted to another row.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from transformers import BertConfig, BertForPreTraining

from pretrain.command.plan import COMMAND
from pretrain.command.plan_scale import asked_scale, settle_gpus
from pretrain.model import PretrainingModel
from pretrain.model.presets import preset_config
from pretrain.optim import LambOptions
from pretrain.plan.collectives import Link
from pretrain.plan.memory import Engine
from pretrain.plan.optimizer_step import optimizer_bytes
from pretrain.plan.parameters import Shapes
from pretrain.plan.scale import Job, Machine, Work, achieved_flops, step_cost

_VOCAB_SIZE = 30528  # 30,522, which their script rounds up to a multiple of 8
_MASKED = {128: 20, 512: 80}  # at most, of a sample

Precision = Literal["fp16", "TF32", "FP32"]


@dataclass(frozen=True)
class Rows:
    """One way to train. `alone`: sequences a second of one GPU; `larger`: (GPUs, accumulation, sequences a second)."""

    machine: Literal["A100", "V100"]
    precision: Precision
    seq_len: int
    micro_batch: int
    accumulation: int  # of one GPU
    alone: float
    larger: tuple[tuple[int, int, float], ...]


# In the table of many nodes: phase 1 on 4 nodes in fp16 accumulates "18" times, and its micro-batch in TF32 is "126";
# by the batch a GPU accumulates, 2,048, and by its other rows these are 8 and 128.
PUBLISHED = (
    Rows(
        *("A100", "fp16", 128, 256, 32, 580),
        (
            *((8, 32, 4591), (8, 32, 4553), (16, 16, 9191), (32, 8, 18119)),
            *((64, 4, 35774), (128, 2, 70555), (256, 1, 138294)),
        ),
    ),
    Rows(
        *("A100", "fp16", 512, 32, 128, 210),
        (
            *((8, 128, 1657), (8, 128, 1648), (16, 64, 3291), (32, 32, 6464)),
            *((64, 16, 13005), (128, 8, 25570), (256, 4, 49663)),
        ),
    ),
    Rows(
        *("A100", "TF32", 128, 128, 64, 317),
        (
            *((8, 64, 2505), (8, 64, 2486), (16, 32, 4979), (32, 16, 9859)),
            *((64, 8, 19815), (128, 4, 38866), (256, 2, 75706)),
        ),
    ),
    Rows(
        *("A100", "TF32", 512, 16, 256, 110),
        (
            *((8, 256, 860), (8, 256, 854), (16, 128, 1684), (32, 64, 3293)),
            *((64, 32, 6515), (128, 16, 12131), (256, 8, 21298)),
        ),
    ),
    Rows("V100", "fp16", 128, 64, 64, 224, ((8, 64, 1746),)),
    Rows("V100", "fp16", 512, 8, 256, 75, ((8, 256, 586),)),
    Rows("V100", "FP32", 128, 32, 128, 50, ((8, 128, 387),)),
    Rows("V100", "FP32", 512, 4, 512, 19, ((8, 512, 149.6),)),
)


@dataclass(frozen=True)
class Prediction:
    """Of one published row. Rates in sequences per second."""

    rows: Rows
    gpus: int
    accumulation: int
    published: float
    predicted: float

    @property
    def error(self) -> float:
        """Of the prediction; above 0 where it is too fast."""
        return self.predicted / self.published - 1

    @property
    def linear_error(self) -> float:
        """Of so many times one GPU's rate."""
        return self.gpus * self.rows.alone / self.published - 1


def bert_large() -> PretrainingModel:
    """On torch's meta device."""
    config = preset_config("bert-large", _VOCAB_SIZE)
    assert isinstance(config, BertConfig)
    with torch.device("meta"):
        return PretrainingModel(BertForPreTraining(config))


def flops_of_sequence(model: PretrainingModel, seq_len: int) -> float:
    """A row that is full, or computed as if it were."""
    return model.flops.step(seq_len, _MASKED[seq_len], seq_len, 1)


def machine_of(name: str) -> Machine:
    """`plan`'s own figures for A100; for V100 four fifths of the data sheet's: six NVLinks of 25 GB/s one way, and 900
    GB/s of memory."""
    parser = argparse.ArgumentParser()
    COMMAND.add_arguments(parser)
    arguments = parser.parse_args(["--gpus", "256"])
    settle_gpus(arguments)
    asked = asked_scale(arguments, 312.0)
    assert asked is not None
    if name == "A100":
        return asked.machine
    inside = Link(0.8 * 150e9, asked.machine.network.inside.hop_seconds)
    network = replace(asked.machine.network, inside=inside)
    return replace(asked.machine, network=network, memory_bytes_per_second=0.8 * 900e9)


def predictions(model: PretrainingModel) -> Iterator[Prediction]:
    """Of every row but those of one GPU."""
    shapes = Shapes.of(model)
    for rows in PUBLISHED:
        machine = machine_of(rows.machine)
        # Replicas whose gradients are summed after the last backward pass, in one bucket: stage 0 of DeepSpeed.
        job = Job(
            Engine("deepspeed", 0, "fp32", ranks=1, num_moments=2),
            shapes,
            rows.micro_batch,
            optimizer_bytes(LambOptions()),
            gradient_bytes=2 if rows.precision == "fp16" else 4,
        )
        flops = flops_of_sequence(model, rows.seq_len)
        batch = rows.micro_batch * rows.accumulation
        pace = achieved_flops(job, machine, Work(batch, batch * flops), batch / rows.alone)
        assert pace is not None
        for gpus, accumulation, published in rows.larger:
            batch = rows.micro_batch * accumulation * gpus
            cost = step_cost(job.on(gpus), machine, Work(batch, batch * flops), pace)
            yield Prediction(rows, gpus, accumulation, published, batch / cost.seconds)
