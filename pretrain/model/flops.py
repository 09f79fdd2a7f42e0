"""The arithmetic of a training step, for model FLOPs utilisation (MFU).

The usual count: a token costs 6 floating-point operations per weight it meets, 2 forward and 4 backward
(Kaplan et al. 2020, arXiv 2001.08361, section 2.1), and 12 * layers * width * seq_len for the attention
scores and their product with the values (Chowdhery et al. 2022, arXiv 2204.02311, appendix B). Embedding
look-ups cost nothing. Neither recomputation under activation checkpointing nor what padding costs is
counted: MFU is about the work asked for.
"""

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

_PER_WEIGHT = 6
_PER_ATTENDED_TOKEN = 12
_NSP_MODULES = (".pooler", ".seq_relationship")


@dataclass(frozen=True)
class TrainingFlops:
    """Weights a token meets, counted while the model was whole (an engine may shard it afterwards)."""

    trunk_weights: int
    mlm_head_weights: int
    nsp_head_weights: int
    hidden_size: int
    sliding_windows: tuple[int | None, ...]  # tokens that a token sees in each layer; None = its whole sample

    def step(self, num_tokens: int, num_masked: int, seq_len: float, num_pairs: int = 0) -> float:
        """FLOPs of forward and backward over `num_tokens` real tokens, `num_masked` of them predicted.

        `seq_len` is how many tokens a token attends to: the length of its sample. For packed rows that is
        the mean of the sample lengths weighted by themselves; the row length is an upper bound.
        """
        attended = sum(seq_len if seen is None else min(seen, seq_len) for seen in self.sliding_windows)
        return (
            _PER_WEIGHT * self.trunk_weights * num_tokens
            + _PER_ATTENDED_TOKEN * self.hidden_size * attended * num_tokens
            + _PER_WEIGHT * self.mlm_head_weights * num_masked
            + _PER_WEIGHT * self.nsp_head_weights * num_pairs
        )


def count_training_flops(encoder: PreTrainedModel) -> TrainingFlops:
    """Counts the weights of the linear layers: in the layers, in the MLM head (its vocabulary projection
    included, tied or not), and in the pooler and NSP head."""
    blocks = [module for module in encoder.modules() if isinstance(module, GradientCheckpointingLayer)]
    trunk = sum(_linear_weights(block) for block in blocks)
    nsp = sum(_linear_weights(part) for name, part in encoder.named_modules() if name.endswith(_NSP_MODULES))
    return TrainingFlops(
        trunk_weights=trunk,
        mlm_head_weights=_linear_weights(encoder) - trunk - nsp,
        nsp_head_weights=nsp,
        hidden_size=encoder.config.hidden_size,
        sliding_windows=tuple(_tokens_seen(encoder, index) for index in range(len(blocks))),
    )


def _linear_weights(module: nn.Module) -> int:
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear))


def _tokens_seen(encoder: PreTrainedModel, layer: int) -> int | None:
    layer_types = getattr(encoder.config, "layer_types", None)
    if layer_types is None or layer_types[layer] != "sliding_attention":
        return None
    return 2 * encoder.config.sliding_window + 1
