"""What forward and backward of one micro-batch hold besides parameters and gradients, traced without any memory.

The model lies on torch's meta device. Its forward and backward run once on fake tensors, which have shapes and devices
and no values, while every new storage is counted until it goes: what a layer keeps for its backward pass, what
recomputation brings back, the head on the masked positions alone, and the attention that torch chooses for this device.
So nothing is assumed about the model's layers.
"""

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pretrain.model import PretrainingModel

_MASKED_MULTIPLE, _PAIRS_MULTIPLE = 64, 16  # to which a micro-batch rounds its counts up


@dataclass(frozen=True)
class MicroBatch:
    """Sizes of the batch that is traced."""

    rows: int
    seq_len: int
    samples: int
    masked: int


@dataclass(frozen=True)
class _FakeBatch:
    """A batch as the model reads it; see `ModelInput`."""

    input_ids: Tensor
    token_type_ids: Tensor
    position_ids: Tensor
    sample_ids: Tensor
    cu_seqlens: Tensor
    max_seqlen: int
    masked_positions: Tensor
    masked_labels: Tensor
    cls_positions: Tensor
    nsp_labels: Tensor


class _LiveBytes(TorchDispatchMode):
    """Counts the storages that operations make, from then on until nobody holds them."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self._known = known
        self.now = 0
        self.peak = 0

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor):
                self._count(each.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        identity = storage._cdata
        if identity in self._known:
            return
        self._known.add(identity)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, identity, storage.nbytes())

    def _gone(self, identity: int, num_bytes: int) -> None:
        self._known.discard(identity)
        self.now -= num_bytes


class _TrainingPass(nn.Module):
    """Forward and backward in one call, so that recomputation finds the same parameters."""

    def __init__(self, model: PretrainingModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: _FakeBatch, computing: AbstractContextManager[Any]) -> None:
        with computing:
            mlm_loss, nsp_loss = self.model(batch)
        (mlm_loss + nsp_loss).backward()


def activation_bytes(
    model: PretrainingModel, batch: MicroBatch, dtype: torch.dtype, autocast: torch.dtype | None = None
) -> int:
    """The peak in bytes, gradients of parameters left out, for weights of `dtype`; `autocast`: what fp32 weights are
    cast to in the pass. `model` lies on the meta device and stays as it is."""
    model.train()
    with FakeTensorMode(), torch.device("cpu"):
        values = {
            name: torch.empty(each.shape, dtype=dtype, requires_grad=each.requires_grad)
            for name, each in model.named_parameters()
        }
        for value in values.values():
            if value.requires_grad:
                value.register_post_accumulate_grad_hook(_drop_gradient)
        buffers = {name: torch.empty(each.shape, dtype=each.dtype) for name, each in model.named_buffers()}
        named = {f"model.{name}": value for name, value in (values | buffers).items()}
        fake = _fake_batch(batch)
        live = _LiveBytes({value.untyped_storage()._cdata for value in named.values()})
        computing = nullcontext() if autocast is None else torch.autocast("cpu", autocast)
        with live:
            functional_call(_TrainingPass(model), named, (fake, computing))
    return live.peak


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


def _fake_batch(batch: MicroBatch) -> _FakeBatch:
    def of(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.zeros(shape, dtype=dtype)

    places = (batch.rows, batch.seq_len)
    masked = batch.masked + -batch.masked % _MASKED_MULTIPLE
    pairs = batch.samples + -batch.samples % _PAIRS_MULTIPLE
    return _FakeBatch(
        input_ids=of(*places),
        token_type_ids=of(*places),
        position_ids=of(*places),
        sample_ids=of(*places, dtype=torch.int32),
        cu_seqlens=of(batch.samples + batch.rows + 1, dtype=torch.int32),
        max_seqlen=batch.seq_len,
        masked_positions=of(masked),
        masked_labels=of(masked),
        cls_positions=of(pairs),
        nsp_labels=of(pairs),
    )
