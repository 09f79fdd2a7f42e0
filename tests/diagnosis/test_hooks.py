"""Finite checks on a whole model: what is named first, and that looking on changes nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from pretrain.diagnosis import Finding, FiniteChecks
from pretrain.model import PretrainingModel
from tests.model.packed_rows import lay_out, make_samples
from tests.model.test_checkpointing import train_step
from tests.model.tiny_models import SEQ_LEN, build_tiny

LAYER = "bert.encoder.layer.1.intermediate.dense"


def looked_at(model: PretrainingModel) -> FiniteChecks:
    with FiniteChecks(model) as checks:
        train_step(model)
    return checks


def poison(module: nn.Module, where: str) -> None:
    """NaN in what the module returns, in the gradient of that, or in the gradient of its weight."""

    def before(module: nn.Module, inputs: Any) -> None:
        weight = module.get_parameter("weight")
        weight.register_hook(lambda gradient: gradient * torch.nan)

    def after(module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        if where == "forward":
            spoilt = output.clone()
            spoilt.view(-1)[3] = torch.nan
            return spoilt
        output.register_hook(lambda gradient: gradient * torch.inf * 0)
        return None

    if where == "parameter":
        module.register_forward_pre_hook(before)
    else:
        module.register_forward_hook(after)


@pytest.mark.parametrize("choice", ["none", "full"])
@pytest.mark.parametrize(
    ("where", "passage", "what"),
    [
        ("forward", "forward", "output of"),
        ("backward", "backward", "gradient of the output of"),
        ("parameter", "backward", "gradient of"),
    ],
)
def test_names_where_it_began(tmp_path: Path, choice: Any, where: str, passage: str, what: str) -> None:
    model = build_tiny(tmp_path, "bert", "nsp", activation_checkpointing=choice)
    poison(model.encoder.get_submodule(LAYER), where)
    found = looked_at(model).first
    assert found is not None
    name = f"{LAYER}.weight" if where == "parameter" else LAYER
    assert found[:3] == (passage, what, name)
    assert found.after is not None


def test_the_outermost_first_thing_is_not_blamed(tmp_path: Path) -> None:
    """Embeddings that overflow spoil all that follows; what comes first is said, and nothing was finite before."""
    model = build_tiny(tmp_path, "bert", "nsp")
    with torch.no_grad():
        model.encoder.get_parameter("bert.embeddings.word_embeddings.weight").fill_(torch.inf)
    checks = looked_at(model)
    assert checks.forward == Finding("forward", "output of", "bert.embeddings.word_embeddings", None)
    assert checks.backward is not None


@pytest.mark.parametrize(
    ("model_type", "objective"), [("bert", "nsp"), ("roberta", "mlm"), ("modernbert", "mlm")]
)
def test_looking_on_changes_nothing_and_leaves_nothing_behind(
    tmp_path: Path, model_type: str, objective: str
) -> None:
    plain = train_step(build_tiny(tmp_path, model_type, objective, dropout=0.2, activation_checkpointing=2))
    model = build_tiny(tmp_path, model_type, objective, dropout=0.2, activation_checkpointing=2)
    with FiniteChecks(model) as checks:
        found = train_step(model)
    assert checks.first is None
    assert all(torch.equal(found[name], value) for name, value in plain.items())
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())
    assert not any(each._backward_hooks for each in model.parameters())


def test_every_trained_parameter_and_module_is_looked_at(tmp_path: Path) -> None:
    """Each in its turn, whatever uses it; the modules that only hold others have no output."""
    model = build_tiny(tmp_path, "bert", "nsp")
    names = [name for name, _ in model.encoder.named_parameters()]
    for name in names:
        handle = model.encoder.get_parameter(name).register_hook(lambda gradient: gradient * torch.inf)
        found = looked_at(model).backward
        handle.remove()
        assert found is not None and (found.what, found.name) == ("gradient of", name), name
        model.zero_grad(set_to_none=True)


def test_of_compiled_layers_the_whole_layer_is_named(tmp_path: Path) -> None:
    model = build_tiny(tmp_path, "bert", "nsp")
    names = {name for name, _, _ in model.observable_modules()}
    model._is_compiled = True  # what `compile_blocks` notes; compiling takes its time
    compiled = {name: parameters() for name, _, parameters in model.observable_modules()}
    assert LAYER in names and LAYER not in compiled
    assert f"{LAYER}.weight" in compiled["bert.encoder.layer.1"]
    used = [name for parameters in compiled.values() for name in parameters]
    assert sorted(set(used)) == sorted({name for name, _ in model.encoder.named_parameters()} | {*used})
    assert {name for name, _ in model.encoder.named_parameters()} <= set(used)


@pytest.mark.slow
@pytest.mark.in_full("compiles a model for it alone")
def test_compiled_code_is_looked_at_from_outside_and_not_compiled_again(tmp_path: Path) -> None:
    torch._dynamo.reset()
    model = build_tiny(tmp_path, "bert", "nsp", dropout=0.2)
    model.compile_blocks()
    plain = train_step(model)
    graphs = counters["stats"]["unique_graphs"]
    model.zero_grad(set_to_none=True)
    with FiniteChecks(model) as checks:
        found = train_step(model)
    assert checks.first is None
    assert all(torch.equal(found[name], value) for name, value in plain.items())
    model.zero_grad(set_to_none=True)
    name = "bert.encoder.layer.1.output.dense.weight"
    model.encoder.get_parameter(name).register_hook(lambda gradient: gradient * torch.nan)
    first = looked_at(model).first
    assert first is not None and first[:3] == ("backward", "gradient of", name)
    assert counters["stats"]["unique_graphs"] == graphs
    torch._dynamo.reset()


def test_the_loss_has_a_name_of_its_own(tmp_path: Path) -> None:
    model = build_tiny(tmp_path, "bert", "nsp")
    model.register_forward_hook(lambda module, inputs, output: (output[0] * torch.nan, output[1]))
    with FiniteChecks(model) as checks:
        model.train()(lay_out([make_samples([13, 9])], SEQ_LEN))
    assert (
        str(checks.first) == "in the loss in the forward pass (after cls.seq_relationship, which was finite)"
    )
