"""Activation checkpointing changes memory, and not one bit of the result."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pretrain.model import PretrainingModel
from tests.model.packed_rows import lay_out, make_samples
from tests.model.tiny_models import SEQ_LEN, build_tiny


def train_step(model: PretrainingModel) -> dict[str, Tensor]:
    samples = make_samples([13, 9, 10, 20])
    torch.manual_seed(7)
    losses = model.train()(lay_out([samples[:3], samples[3:]], SEQ_LEN))
    sum(losses).backward()
    results = {f"loss {index}": loss.detach() for index, loss in enumerate(losses)}
    return results | {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("choice", ["full", 2])
@pytest.mark.parametrize(
    ("model_type", "objective"), [("bert", "nsp"), ("roberta", "mlm"), ("modernbert", "mlm")]
)
def test_losses_and_gradients_are_bitwise_equal_with_dropout(
    tmp_path: Path, model_type: str, objective: str, choice: Any
) -> None:
    model = build_tiny(tmp_path, model_type, objective, dropout=0.2, activation_checkpointing="none")
    expected = train_step(model)
    model = build_tiny(tmp_path, model_type, objective, dropout=0.2, activation_checkpointing=choice)
    actual = train_step(model)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(actual[name], value), name


@pytest.mark.parametrize(("choice", "recomputed"), [("none", []), ("full", [0, 1, 2]), (2, [0, 2]), (3, [0])])
def test_every_kth_layer_runs_twice(tmp_path: Path, choice: Any, recomputed: list[int]) -> None:
    model = build_tiny(tmp_path, "bert", "nsp", activation_checkpointing=choice)
    runs: list[int] = []
    for index, block in enumerate(model.blocks()):
        # The hook of a module inside the layer sees the recomputation; that of the layer itself does not.
        block.get_submodule("intermediate").register_forward_hook(lambda *_, index=index: runs.append(index))
    train_step(model)
    assert [index for index in range(3) if runs.count(index) == 2] == recomputed
    assert sorted(set(runs)) == [0, 1, 2]
