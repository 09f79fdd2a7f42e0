"""Attention over packed rows, in which no sample sees another.

A row of `seq_len` tokens holds several samples. Three ways lead to the same result:

1. on a GPU with flash attention, in half precision and without attention dropout, torch's variable-length
   attention over the flattened rows, cut at `cu_seqlens`;
2. everywhere else, scaled-dot-product attention under a boolean mask that is true where query and key belong
   to the same sample. The mask is made once per forward pass and shared by the layers;
3. on the CPU with attention dropout the same written out, as torch does it there, in fp32 at least, but with `dropped`.

Padding counts as a sample of its own: it attends to padding, so that no softmax runs over nothing. Layers
with a sliding window (ModernBERT) see the neighbours within the window inside their own sample.

The function plugs into any `transformers` encoder that takes the attention interface; the samples travel down
to it as the keyword argument `samples` of the encoder's forward.
"""

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from pretrain.model.dropout import dropped

PACKED = "packed"
_FLASH_CAPABILITY = (8, 0)
_MAX_FLASH_HEAD_SIZE = 256


class PackedSamples:
    """Where the samples of a batch of rows lie, in the two forms that attention needs.

    `sample_ids` [rows, seq_len]: equal within a sample, different between the samples of a row. `cu_seqlens`
    [num_segments + 1] int32: starts of the segments in the flattened rows, first 0, last rows * seq_len.
    `max_seqlen`: tokens of the longest segment, or any bound on it.

    A compiled layer is traced with this object: it must find tensors of one shape and no state that changes. How many
    segments there are is the one size that differs between micro-batches, and is traced as such.
    """

    def __init__(self, sample_ids: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> None:
        self.sample_ids = sample_ids
        self.cu_seqlens = cu_seqlens
        self.max_seqlen = max_seqlen
        self.device_has_flash = (
            sample_ids.is_cuda and torch.cuda.get_device_capability(sample_ids.device) >= _FLASH_CAPABILITY
        )
        torch._dynamo.maybe_mark_dynamic(cu_seqlens, 0)
        # The layers of one forward pass share the masks; only the fallback asks for them.
        self._masks: dict[int | None, Tensor] = {}

    def mask(self, radius: int | None) -> Tensor:
        """Boolean [rows, 1, seq_len, seq_len], true where query and key may meet: the same sample and, with a
        radius, at most that many tokens apart (the samples of a row are contiguous)."""
        if torch.compiler.is_compiling():
            return self._made_mask(
                radius
            )  # a mask that one layer keeps for the next would be traced as state
        if radius not in self._masks:
            self._masks[radius] = self._made_mask(radius)
        return self._masks[radius]

    def _made_mask(self, radius: int | None) -> Tensor:
        allowed = self.sample_ids[:, None, :, None] == self.sample_ids[:, None, None, :]
        if radius is not None:
            index = torch.arange(self.sample_ids.shape[1], device=self.sample_ids.device)
            allowed = allowed & ((index[:, None] - index[None, :]).abs() <= radius)
        return allowed


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    samples: PackedSamples,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """The attention function that `transformers` calls in every layer.

    query, key, value: [rows, heads, seq_len, head_size]. Returns [rows, seq_len, heads, head_size] and no
    attention weights. `dropout` is 0 outside training; `sliding_window` is the radius + 1 (the convention of
    the `transformers` layers).
    """
    radius = None if sliding_window is None else sliding_window - 1
    if samples.device_has_flash and _flash_attention_fits(query, dropout):
        rows, seq_len = query.shape[0], query.shape[2]
        # A number that differs between micro-batches would be compiled into the code, and the code anew for each.
        max_seqlen = seq_len if torch.compiler.is_compiling() else samples.max_seqlen
        output = varlen_attn(
            query.transpose(1, 2).flatten(0, 1),
            key.transpose(1, 2).flatten(0, 1),
            value.transpose(1, 2).flatten(0, 1),
            samples.cu_seqlens,
            samples.cu_seqlens,
            max_seqlen,
            max_seqlen,
            scale=scaling,
            window_size=(-1, -1) if radius is None else (radius, radius),
        )
        assert isinstance(output, Tensor)
        return output.unflatten(0, (rows, seq_len)), None
    if dropout > 0.0 and query.device.type == "cpu" and not torch.compiler.is_compiling():
        output = _with_dropout(query, key, value, samples.mask(radius), dropout, scaling)
    else:
        output = scaled_dot_product_attention(
            query, key, value, attn_mask=samples.mask(radius), dropout_p=dropout, scale=scaling
        )
    return output.transpose(1, 2), None


def _with_dropout(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float, scaling: float | None
) -> Tensor:
    """`scaled_dot_product_attention` of the same arguments, under autocast too."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    precise = torch.promote_types(query.dtype, torch.float32)
    with torch.autocast("cpu", enabled=False):
        scores = (query.to(precise) * scale) @ key.to(precise).transpose(-1, -2)
        weights = scores.masked_fill_(~mask, -torch.inf).softmax(-1)
        return (dropped(weights, dropout) @ value.to(precise)).to(query.dtype)


def _flash_attention_fits(query: Tensor, dropout: float) -> bool:
    """Whether torch's variable-length attention can do it: it has no dropout and no fp32."""
    return (
        query.is_cuda
        and dropout == 0.0
        and query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[-1] % 8 == 0
        and query.shape[-1] <= _MAX_FLASH_HEAD_SIZE
    )


def register_packed_attention() -> None:
    """Make `attn_implementation="packed"` known to `transformers`; doing it again changes nothing."""
    AttentionInterface.register(PACKED, packed_attention)
    # The samples say everything, so the mask that `transformers` would make is not made at all.
    AttentionMaskInterface.register(PACKED, lambda *args, **kwargs: None)
