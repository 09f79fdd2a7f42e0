"""On a GPU: the variable-length kernel gives what the masked fallback gives, forward and backward."""

from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor, nn

from pretrain.model import attention
from pretrain.model.attention import PackedSamples, packed_attention
from tests.model.packed_rows import lay_out, make_samples

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

Attended = tuple[Tensor, list[Tensor]]


def attend(dtype: torch.dtype, sliding_window: int | None) -> Attended:
    """Output and gradients of queries, keys and values of two packed rows, one of them padded."""
    made = make_samples([70, 50, 100, 3])
    batch = lay_out([made[:2], made[2:]], seq_len=128)
    samples = PackedSamples(batch.sample_ids.cuda(), batch.cu_seqlens.cuda(), batch.max_seqlen)
    draw = torch.Generator().manual_seed(0)
    query, key, value = inputs = [
        torch.randn((2, 4, 128, 64), generator=draw).to("cuda", dtype).requires_grad_() for _ in range(3)
    ]
    output, _ = packed_attention(
        nn.Identity(), query, key, value, None, samples=samples, scaling=0.125, sliding_window=sliding_window
    )
    output.backward(torch.randn(output.shape, generator=draw).to("cuda", dtype))
    gradients = [tensor.grad for tensor in inputs if tensor.grad is not None]
    return output, gradients


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sliding_window", [None, 9])
def test_kernel_equals_the_fallback(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, sliding_window: int | None
) -> None:
    kernel = MagicMock(wraps=attention.varlen_attn)
    monkeypatch.setattr(attention, "varlen_attn", kernel)
    exact_output, exact_gradients = attend(torch.float32, sliding_window)
    assert not kernel.called
    output, gradients = attend(dtype, sliding_window)
    assert kernel.call_count == 1
    assert len(gradients) == len(exact_gradients) == 3
    for actual, exact in zip([output, *gradients], [exact_output, *exact_gradients], strict=True):
        torch.testing.assert_close(
            actual.float(), exact, rtol=0.02, atol=0.02 * float(exact.detach().abs().max())
        )


def test_attention_dropout_goes_through_the_fallback() -> None:
    query = torch.zeros(1, 1, 8, 64, dtype=torch.bfloat16, device="cuda")
    assert attention._flash_attention_fits(query, dropout=0.0)
    assert not attention._flash_attention_fits(query, dropout=0.1)
    assert not attention._flash_attention_fits(query.float(), dropout=0.0)
