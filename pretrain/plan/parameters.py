"""How many parameters there are, of which part of the model, from a model on torch's meta device."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from pretrain.model import PretrainingModel
from pretrain.sharding import ParameterInfo


@dataclass(frozen=True)
class ModelPart:
    """Elements of one part of the model; a tied parameter counts where it first is."""

    name: str
    numel: int
    trained: int


@dataclass(frozen=True)
class ParameterCounts:
    """Of a whole model."""

    parts: tuple[ModelPart, ...]

    @property
    def numel(self) -> int:
        return sum(part.numel for part in self.parts)

    @property
    def trained(self) -> int:
        return sum(part.trained for part in self.parts)

    @property
    def frozen(self) -> int:
        return self.numel - self.trained


def count_parameters(model: PretrainingModel) -> ParameterCounts:
    """Embeddings, layers of the encoder, and heads: what is neither (the pooler, which serves the NSP head alone)."""
    named = list(model.encoder.named_parameters())
    in_layers = {id(each) for block in model.blocks() for each in block.parameters()}
    trunk = {id(each) for each in model.encoder.base_model.parameters()}

    def part_of(name: str, parameter: nn.Parameter) -> str:
        if id(parameter) in in_layers:
            return "encoder layers"
        if "embeddings" in name:
            return "embeddings"
        return "heads" if id(parameter) not in trunk or ".pooler." in name else "encoder layers"

    return ParameterCounts(
        tuple(_part(part, named, part_of) for part in ("embeddings", "encoder layers", "heads"))
    )


def _part(
    part: str, named: list[tuple[str, nn.Parameter]], part_of: Callable[[str, nn.Parameter], str]
) -> ModelPart:
    members = [parameter for name, parameter in named if part_of(name, parameter) == part]
    return ModelPart(
        part,
        sum(each.numel() for each in members),
        sum(each.numel() for each in members if each.requires_grad),
    )


@dataclass(frozen=True)
class Shapes:
    """What sharding goes by: the parameters in the model's order, and the units that are gathered together, each layer
    one and all the rest another, of which `rest_trained_numel` elements are trained."""

    trained: tuple[ParameterInfo, ...]
    frozen: tuple[ParameterInfo, ...]
    layer_numels: tuple[int, ...]
    rest_numel: int
    rest_trained_numel: int

    @classmethod
    def of(cls, model: PretrainingModel) -> "Shapes":
        named = [
            (each, ParameterInfo(name, tuple(each.shape))) for name, each in model.encoder.named_parameters()
        ]
        layers = tuple(sum(each.numel() for each in block.parameters()) for block in model.blocks())
        in_layers = {id(each) for block in model.blocks() for each in block.parameters()}
        rest = [(each, info) for each, info in named if id(each) not in in_layers]
        return cls(
            trained=tuple(info for each, info in named if each.requires_grad),
            frozen=tuple(info for each, info in named if not each.requires_grad),
            layer_numels=layers,
            rest_numel=sum(info.numel for _, info in rest),
            rest_trained_numel=sum(info.numel for each, info in rest if each.requires_grad),
        )

    @property
    def trained_numel(self) -> int:
        return sum(info.numel for info in self.trained)

    @property
    def frozen_numel(self) -> int:
        return sum(info.numel for info in self.frozen)

    @property
    def numel(self) -> int:
        return self.trained_numel + self.frozen_numel
