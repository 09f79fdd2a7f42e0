"""The arithmetic of a training step, for model FLOPs utilisation (MFU).

The usual count: a token costs 6 floating-point operations per weight it meets, 2 forward and 4 backward
(Kaplan et al. 2020, arXiv 2001.08361, section 2.1), and 12 * layers * width * seq_len for the attention
scores and their product with the values (Chowdhery et al. 2022, arXiv 2204.02311, appendix B). Of the 4, a frozen
weight saves the 2 of its gradient, and a layer below all that is trained the 2 of its input's. Embedding look-ups
cost nothing. Neither recomputation under activation checkpointing nor what padding costs is
counted: MFU is about the work asked for.
"""

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

_PER_WEIGHT = 2  # of each pass: forward, gradient of the input, gradient of the weight
_PER_ATTENDED_TOKEN = 4  # the same; of two products backward takes twice as many
_NSP_MODULES = (".pooler", ".seq_relationship")


@dataclass(frozen=True)
class TrainingFlops:
    """FLOPs of a token in the linear layers that it meets, counted while the model was whole (an engine may shard it
    afterwards)."""

    trunk: int
    mlm_head: int
    nsp_head: int
    hidden_size: int
    sliding_windows: tuple[int | None, ...]  # tokens that a token sees in each layer; None = its whole sample
    frozen_layers: int = 0  # the first so many have no backward pass

    def step(self, num_tokens: int, num_masked: int, seq_len: float, num_pairs: int = 0) -> float:
        """FLOPs of forward and backward over `num_tokens` real tokens, `num_masked` of them predicted.

        `seq_len` is how many tokens a token attends to: the length of its sample. For packed rows that is
        the mean of the sample lengths weighted by themselves; the row length is an upper bound.
        """
        attended = sum(
            (seq_len if seen is None else min(seen, seq_len)) * (1 if layer < self.frozen_layers else 3)
            for layer, seen in enumerate(self.sliding_windows)
        )
        return (
            self.trunk * num_tokens
            + _PER_ATTENDED_TOKEN * self.hidden_size * attended * num_tokens
            + self.mlm_head * num_masked
            + self.nsp_head * num_pairs
        )


def count_training_flops(encoder: PreTrainedModel) -> TrainingFlops:
    """Counts the linear layers: those of the layers, of the MLM head (its vocabulary projection included, tied or not),
    and of pooler and NSP head."""
    blocks = [module for module in encoder.modules() if isinstance(module, GradientCheckpointingLayer)]
    trained = {id(parameter) for parameter in encoder.parameters() if parameter.requires_grad}
    # Embeddings and what else lies before the layers; heads lie behind them.
    below = [parameter for name, parameter in encoder.named_parameters() if "embeddings" in name]
    frozen_layers = 0
    for part in (below, *(block.parameters() for block in blocks)):
        if any(id(parameter) in trained for parameter in part):
            break
        frozen_layers += 1
    frozen_layers = max(0, frozen_layers - 1)
    trunk = sum(_linear(block, backward=layer >= frozen_layers) for layer, block in enumerate(blocks))
    every = sum(_linear(block, backward=True) for block in blocks)
    nsp = sum(_linear(part, True) for name, part in encoder.named_modules() if name.endswith(_NSP_MODULES))
    return TrainingFlops(
        trunk=trunk,
        mlm_head=_linear(encoder, backward=True) - every - nsp,
        nsp_head=nsp,
        hidden_size=encoder.config.hidden_size,
        sliding_windows=tuple(_tokens_seen(encoder, index) for index in range(len(blocks))),
        frozen_layers=frozen_layers,
    )


def _linear(module: nn.Module, backward: bool) -> int:
    """FLOPs of a token in all linear layers; with `backward` through them, and the gradients of what is trained."""
    return sum(
        _PER_WEIGHT * part.weight.numel() * (1 + backward + part.weight.requires_grad)
        for part in module.modules()
        if isinstance(part, nn.Linear)
    )


def _tokens_seen(encoder: PreTrainedModel, layer: int) -> int | None:
    layer_types = getattr(encoder.config, "layer_types", None)
    if layer_types is None or layer_types[layer] != "sliding_attention":
        return None
    return 2 * encoder.config.sliding_window + 1
