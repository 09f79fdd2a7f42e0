"""Passes on this machine: what they hold beside what the plan traces, and beside what is known by hand."""

from dataclasses import replace
from typing import Literal

import pytest
import torch

from pretrain.build import row_stream
from pretrain.data.batches import Batch
from pretrain.data.options import SamplingOptions
from pretrain.data.order import Cursor
from pretrain.data.store import TokenStore
from pretrain.model import ModelOptions, PretrainingModel, build_model
from pretrain.plan.activations import MicroBatch, activation_bytes
from pretrain.plan.passes import Passes, allocated_at_peak
from tests.command.runs import STORE

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def batch() -> Batch:
    """8 rows of 32 tokens."""
    store = TokenStore.open(str(STORE))
    options = SamplingOptions(seq_len=32, objective="nsp", packing=True)
    return row_stream(store, "train", options, 0).step(Cursor(0, 0, 0), 8).batch(0, 8)


def tiny(on_meta: bool, recomputation: Literal["none", "full"] = "none") -> PretrainingModel:
    store = TokenStore.open(str(STORE))
    return build_model(
        ModelOptions(preset="bert-tiny", activation_checkpointing=recomputation),
        vocab_size=store.vocab_size,
        special_ids=store.special_ids,
        seq_len=32,
        objective="nsp",
        tokenizer_path=store.tokenizer_path,
        seed=0,
        on_meta=on_meta,
    )


def test_the_peak_is_of_what_is_held_at_once() -> None:
    """1,000 floats and beside them twice 500, one after another."""

    def action() -> None:
        kept = torch.ones(1000)
        for _ in range(2):
            torch.ones(500)
        del kept

    assert allocated_at_peak(action) == 4 * 1500


@pytest.mark.parametrize("recomputation", ["none", "full"])
@pytest.mark.parametrize(
    ("dtype", "autocast"),
    [(torch.float32, None), (torch.bfloat16, None), (torch.float32, torch.bfloat16)],
    ids=["fp32", "bf16", "autocast"],
)
def test_measured_activations_are_those_that_are_planned(
    batch: Batch, recomputation: Literal["none", "full"], dtype: torch.dtype, autocast: torch.dtype | None
) -> None:
    """To a tenth: kernels of half precision have work space in fp32 besides, which counts beside tensors so small."""
    measured = Passes(tiny(on_meta=False, recomputation=recomputation), CPU, dtype, autocast).peak_bytes(
        batch
    )
    sizes = MicroBatch(8, 32, samples=batch.num_samples, masked=batch.num_masked)
    planned = activation_bytes(tiny(on_meta=True, recomputation=recomputation), sizes, dtype, autocast)
    assert measured == pytest.approx(planned, rel=0.1)


def test_a_pass_leaves_nothing_behind_and_takes_time(batch: Batch) -> None:
    model = tiny(on_meta=False)
    before = [each.detach().clone() for each in model.parameters()]
    passes = Passes(model, CPU, torch.float32)
    reached = []
    for each in model.parameters():
        each.register_hook(lambda gradient: reached.append(gradient.abs().sum().item()))
    assert passes.seconds(batch) > 0
    assert len(reached) == len(before) and all(each.grad is None for each in model.parameters())
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))


def test_more_rows_hold_more(batch: Batch) -> None:
    """Rows of the same batch twice."""
    passes = Passes(tiny(on_meta=False), CPU, torch.float32)
    twice = replace(
        batch,
        **{
            name: getattr(batch, name).repeat(2, 1)
            for name in ("input_ids", "token_type_ids", "position_ids", "sample_ids")
        },
    )
    assert passes.peak_bytes(twice) > 1.3 * passes.peak_bytes(batch)
