"""Live bytes by hand, what a rank holds, and activations against what torch really saves."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pretrain.backends.base import Precision
from pretrain.backends.carried import BackendName
from pretrain.model import ModelOptions, PretrainingModel
from pretrain.model.build import build_model
from pretrain.plan.activations import MicroBatch, activation_bytes
from pretrain.plan.memory import Engine, live_bytes
from pretrain.plan.parameters import Shapes
from pretrain.plan.shards import held_numel
from pretrain.sharding import ParameterInfo
from tests.model.packed_rows import VOCAB_SIZE

# 12 x 10, and 4: two ranks hold 62 each. Two layers of 40 and 44 elements, 40 in none.
SHAPES = Shapes((ParameterInfo("a", (12, 10)), ParameterInfo("b", (4,))), (), (40, 44), 40, 40)
FP32 = Engine("deepspeed", 0, "fp32", ranks=2, num_moments=2)
BUCKET = 100


@pytest.mark.parametrize(
    ("backend", "stage", "precision", "weights", "optimizer", "gradients", "buffers"),
    [
        ("deepspeed", 0, "fp32", 4 * 124, 8 * 124, 4 * 124, 4 * 124),
        ("deepspeed", 0, "bf16", 4 * 124, 8 * 124, 4 * 124, 4 * 124),
        ("deepspeed", 1, "fp32", 4 * 124 + 4 * 62, 8 * 62, 4 * 124 + 4 * 62, 8 * 100),
        ("deepspeed", 1, "fp16", 2 * 124 + 4 * 62, 8 * 62, 4 * 124 + 4 * 62, 8 * 100),
        ("deepspeed", 1, "bf16", 2 * 124 + 4 * 62, 8 * 62, 4 * 124, 4 * 62),
        ("deepspeed", 2, "fp16", 2 * 124 + 4 * 62, 8 * 62, 4 * 62, 8 * 100),
        ("deepspeed", 3, "bf16", 6 * 62, 8 * 62, 4 * 62, 8 * 100 + 2 * 124),
        ("fsdp", 0, "fp32", 4 * 124, 8 * 124, 8 * 124, 4 * 124 + 8 * 44),
        ("fsdp", 1, "bf16", 4 * 62, 8 * 62, 4 * 124 + 4 * 62, 2 * 124 + 8 * 44),
        ("fsdp", 2, "bf16", 4 * 62, 8 * 62, 4 * 62, 2 * 124 + 8 * 44),
        ("fsdp", 3, "fp32", 4 * 62, 8 * 62, 4 * 62, 4 * 84 + 8 * 44),
    ],
)
def test_live_bytes(
    backend: BackendName,
    stage: int,
    precision: Precision,
    weights: int,
    optimizer: int,
    gradients: int,
    buffers: int,
) -> None:
    engine = replace(FP32, backend=backend, stage=stage, precision=precision, reduce_bucket=BUCKET)
    found = live_bytes(engine, SHAPES, activations=7)
    assert (found.weights, found.optimizer) == (weights, optimizer)
    assert (found.gradients, found.buffers) == (gradients, buffers)
    assert found.total == weights + optimizer + gradients + buffers + 7


def test_what_is_offloaded_is_not_on_the_device() -> None:
    engine = replace(FP32, backend="fsdp", stage=2, offloads_optimizer=True)
    whole = live_bytes(replace(engine, offloads_optimizer=False), SHAPES, 0)
    assert live_bytes(engine, SHAPES, 0).total == whole.total - 16 * 62


def test_a_bucket_on_a_gpu_takes_its_whole_size() -> None:
    """Its own, in half precision, and the sum in fp32 of the elements that there are."""
    engine = replace(FP32, stage=2, precision="bf16", on_gpu=True, reduce_bucket=1000)
    assert live_bytes(engine, SHAPES, 0).buffers == 2 * 1000 + 4 * 124
    # Stage 1 accumulates in fp32; overlap_comm fills a second one meanwhile, but at stage 3.
    assert live_bytes(replace(engine, stage=1, precision="fp16"), SHAPES, 0).buffers == 4 * 1000 + 4 * 124
    overlapped = replace(engine, overlap_comm=True)
    assert live_bytes(overlapped, SHAPES, 0).buffers == 2 * 2 * 1000 + 4 * 124
    third = live_bytes(replace(overlapped, stage=3), SHAPES, 0).buffers
    assert third == live_bytes(replace(engine, stage=3), SHAPES, 0).buffers


def test_what_stage_3_gathers_is_limited() -> None:
    engine = replace(FP32, stage=3, reduce_bucket=BUCKET)
    whole, limited = (live_bytes(replace(engine, max_live=most), SHAPES, 0).buffers for most in (1000, 50))
    assert (whole, limited) == (8 * 100 + 4 * 124, 8 * 100 + 4 * 50)


def test_what_the_fullest_rank_holds() -> None:
    """Five ranks: a flat run of 25; 24 and 1 of each; three rows of ten, and one of the second."""
    parameters = SHAPES.trained
    assert held_numel("deepspeed", 0, parameters, 5) == held_numel("fsdp", 0, parameters, 5) == 124
    assert held_numel("deepspeed", 2, parameters, 5) == 25
    assert held_numel("deepspeed", 3, parameters, 5) == 24 + 1
    assert held_numel("fsdp", 3, parameters, 5) == 30 + 1


def tiny(on_meta: bool, recomputation: str = "none") -> PretrainingModel:
    return build_model(
        ModelOptions(preset="bert-tiny", activation_checkpointing=recomputation),  # type: ignore[arg-type]
        vocab_size=VOCAB_SIZE,
        special_ids={"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4},
        seq_len=32,
        objective="nsp",
        tokenizer_path=Path("nowhere"),
        seed=0,
        on_meta=on_meta,
    )


class Batch:
    """Zeros of the traced batch's sizes."""

    def __init__(self, rows: int, seq_len: int) -> None:
        zeros = torch.zeros(rows, seq_len, dtype=torch.int64)
        self.input_ids = self.token_type_ids = self.position_ids = self.sample_ids = zeros
        self.cu_seqlens, self.max_seqlen = torch.zeros(rows + 1, dtype=torch.int32), seq_len
        self.masked_positions = self.masked_labels = torch.zeros(64, dtype=torch.int64)
        self.cls_positions = self.nsp_labels = torch.zeros(16, dtype=torch.int64)


def test_activations_are_those_that_torch_saves() -> None:
    """What backward needs is what is saved in forward, once for each storage; the peak lies a little above it."""
    model, saved = tiny(on_meta=False), dict[int, int]()
    weights = {each.untyped_storage().data_ptr() for each in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.train()
    batch = Batch(rows=8, seq_len=32)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = model(batch)
    assert losses[0].requires_grad
    traced = activation_bytes(tiny(on_meta=True), MicroBatch(8, 32, samples=16, masked=64), torch.float32)
    assert 0.8 * traced < sum(saved.values()) <= traced


def test_activations_follow_precision_recomputation_and_rows() -> None:
    batch = MicroBatch(8, 32, samples=16, masked=64)
    whole = activation_bytes(tiny(on_meta=True), batch, torch.float32)
    twice = activation_bytes(tiny(on_meta=True), replace(batch, rows=16, masked=128), torch.float32)
    half = activation_bytes(tiny(on_meta=True), batch, torch.bfloat16)
    autocast = activation_bytes(tiny(on_meta=True), batch, torch.float32, torch.bfloat16)
    recomputed = activation_bytes(tiny(on_meta=True, recomputation="full"), batch, torch.float32)
    assert twice == pytest.approx(2 * whole, rel=0.1)
    assert recomputed < 0.8 * whole and half < autocast < whole
