"""The module that is trained: a Hugging Face encoder on packed rows, from a batch to the sums of its losses.

1. the trunk runs on rows of packed samples, positions starting anew in each sample, attention kept inside it;
2. the hidden states at the masked positions go through the MLM head, those at the [CLS] positions through the
   NSP head where the model has one;
3. cross-entropies are taken in fp32 and summed; dividing by the counts of the global batch is the caller's.

Everything happens in one `forward` of one module, so that an engine that shards parameters and hooks the root
sees every use of them.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from pretrain.model.attention import PackedSamples
from pretrain.model.compilation import compile_in_training
from pretrain.model.configs import first_position
from pretrain.model.flops import TrainingFlops, count_training_flops
from pretrain.model.heads import has_nsp_head, mlm_logits, nsp_logits

IGNORED_LABEL = -100


class ModelInput(Protocol):
    """What the model reads of a batch; integers, positions being flat indices into rows * seq_len."""

    @property
    def input_ids(self) -> Tensor: ...  # [rows, seq_len]
    @property
    def token_type_ids(self) -> Tensor: ...  # [rows, seq_len]
    @property
    def position_ids(self) -> Tensor: ...  # [rows, seq_len], from 0 in every sample
    @property
    def sample_ids(self) -> Tensor: ...  # [rows, seq_len], 0 = padding
    @property
    def cu_seqlens(self) -> Tensor: ...  # [num_segments + 1] int32, padding runs included
    @property
    def max_seqlen(self) -> int: ...
    @property
    def masked_positions(self) -> Tensor: ...  # [n]
    @property
    def masked_labels(self) -> Tensor: ...  # [n], -100 = none
    @property
    def cls_positions(self) -> Tensor: ...  # [p]
    @property
    def nsp_labels(self) -> Tensor: ...  # [p], -100 = none


class PretrainingModel(nn.Module):
    """`encoder` is the Hugging Face model with its heads: what is exported, and whose names count.

    `label_smoothing` (Szegedy et al. 2016, section 7): the share of a masked token's target that is spread evenly over
    the vocabulary. In training only: scores are those of the labels, comparable between runs.
    """

    def __init__(self, encoder: PreTrainedModel, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self._is_compiled = False
        self.encoder = encoder
        self.flops: TrainingFlops = count_training_flops(encoder)
        self._first_position = first_position(encoder.config)
        self._takes_token_types = getattr(encoder.config, "type_vocab_size", 0) > 1

    def forward(self, batch: ModelInput, detail: bool = False) -> tuple[Tensor, ...]:
        """(mlm_loss_sum, nsp_loss_sum): fp32 scalars; the second is 0 without an NSP head or NSP labels.

        With `detail`, per position: (mlm_losses [n] fp32, mlm_predictions [n], nsp_losses [p] fp32,
        nsp_predictions [p]); losses are 0 where there is no label, NSP predictions 0 without an NSP head.
        """
        hidden = self._hidden_states(batch).flatten(0, 1)
        reduction = "none" if detail else "sum"
        mlm = _fp32(mlm_logits(self.encoder, hidden[batch.masked_positions]))
        mlm_loss = cross_entropy(
            mlm,
            batch.masked_labels,
            ignore_index=IGNORED_LABEL,
            reduction=reduction,
            label_smoothing=0.0 if detail else self.label_smoothing,
        )
        if has_nsp_head(self.encoder):
            nsp = _fp32(nsp_logits(self.encoder, hidden[batch.cls_positions]))
            nsp_loss = cross_entropy(nsp, batch.nsp_labels, ignore_index=IGNORED_LABEL, reduction=reduction)
        else:
            nsp = mlm.new_zeros((len(batch.cls_positions), 2))
            nsp_loss = mlm.new_zeros(len(batch.cls_positions) if detail else ())
        return (mlm_loss, mlm.argmax(-1), nsp_loss, nsp.argmax(-1)) if detail else (mlm_loss, nsp_loss)

    def score(self, batch: ModelInput) -> tuple[Tensor, ...]:
        """`forward(batch, detail=True)` without gradients; an engine calls its own wrapper the same way."""
        with torch.no_grad():
            return self(batch, detail=True)

    def blocks(self) -> list[GradientCheckpointingLayer]:
        """The encoder layers in order, for wrapping one by one."""
        return [module for module in self.encoder.modules() if isinstance(module, GradientCheckpointingLayer)]

    def compile_blocks(self) -> None:
        """Every encoder layer is compiled at its first training step; to be called once an engine has wrapped them.

        What engines hang before and after a layer stays outside of the compiled code, and so do embeddings and heads,
        whose shapes differ. Validation, with shapes of its own, is not compiled.
        """
        self._is_compiled = True
        for block in self.blocks():
            compile_in_training(block)

    def observable_modules(
        self,
    ) -> Iterator[tuple[str, nn.Module, Callable[[], dict[str, nn.Parameter]]]]:
        """Modules whose hooks run at every pass, with their names as exported ("": this module) and a function that
        says, at any time, which parameters they use. Inside a compiled layer no hook runs: it is one module."""
        inside = {id(part) for block in self.blocks() if self._is_compiled for part in block.modules()}
        inside -= {id(block) for block in self.blocks()}
        for path, module in self.named_modules():
            if id(module) not in inside:
                name = path.removeprefix("encoder").removeprefix(".")
                yield name, module, partial(_parameters_of, module, name, self._is_compiled)

    def _hidden_states(self, batch: ModelInput) -> Tensor:
        """[rows, seq_len, hidden_size] after the last layer."""
        token_types = {"token_type_ids": batch.token_type_ids} if self._takes_token_types else {}
        output = self.encoder.base_model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids + self._first_position,
            samples=PackedSamples(batch.sample_ids, batch.cu_seqlens, batch.max_seqlen),
            **token_types,
        )
        return output.last_hidden_state


def _parameters_of(module: nn.Module, name: str, with_inner: bool) -> dict[str, nn.Parameter]:
    """Of a module, by the names that the model exports them by; those of modules inside a layer by choice."""
    recurse = with_inner and isinstance(module, GradientCheckpointingLayer)
    return dict(module.named_parameters(name, recurse=recurse))


def _fp32(logits: Tensor) -> Tensor:
    """At least fp32: half precision has too few digits for a cross-entropy over a vocabulary."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
