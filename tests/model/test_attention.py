"""The ways of packed attention: the call of the variable-length kernel, the masked fallback, and that with dropout."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from pretrain.model import attention
from pretrain.model.attention import PackedSamples, packed_attention
from tests.model.packed_rows import lay_out, make_samples


def packed_samples() -> PackedSamples:
    samples = make_samples([7, 5, 12, 3])
    batch = lay_out([samples[:2], samples[2:]], seq_len=16)
    return PackedSamples(batch.sample_ids, batch.cu_seqlens, batch.max_seqlen)


def queries_keys_values() -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    shape = (2, 16, 3, 8)  # rows, seq_len, heads, head_size: laid out as the linear layers leave them
    return [torch.randn(shape, generator=draw).transpose(1, 2) for _ in range(3)]


def softmax_attention_of_each_segment(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
) -> Tensor:
    """What `varlen_attn` promises ([tokens, heads, head_size]), written out segment by segment."""
    assert cu_seq_q is cu_seq_k and cu_seq_q.dtype == torch.int32
    assert max_q == max_k == int(cu_seq_q.diff().max())
    output = torch.empty_like(query)
    for start, end in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        scores = torch.einsum("qhd,khd->hqk", query[start:end], key[start:end]) * scale
        distance = torch.arange(end - start)[None, :] - torch.arange(end - start)[:, None]
        left, right = window_size
        if left >= 0:
            scores = scores.masked_fill((distance < -left) | (distance > right), float("-inf"))
        output[start:end] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), value[start:end])
    return output


@pytest.mark.parametrize("sliding_window", [None, 3])
def test_both_ways_agree(monkeypatch: pytest.MonkeyPatch, sliding_window: int | None) -> None:
    """On a CPU the kernel is played by its own definition; what is tested is how it is called."""
    query, key, value = queries_keys_values()
    attend = partial(
        packed_attention,
        nn.Identity(),
        query,
        key,
        value,
        None,
        samples=packed_samples(),
        scaling=0.3,
        sliding_window=sliding_window,
    )
    masked, _ = attend()
    attend.keywords["samples"].device_has_flash = True
    monkeypatch.setattr(attention, "_flash_attention_fits", lambda query, dropout: True)
    monkeypatch.setattr(attention, "varlen_attn", softmax_attention_of_each_segment)
    flattened, _ = attend()
    assert flattened.shape == (2, 16, 3, 8)
    torch.testing.assert_close(flattened, masked)


def test_the_mask_joins_a_sample_and_nothing_else() -> None:
    samples = PackedSamples(torch.tensor([[1, 1, 1, 2, 0]]), torch.tensor([0, 3, 4, 5]), 3)
    whole = [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]
    near = [[1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]
    assert samples.mask(None)[0, 0].int().tolist() == whole
    assert samples.mask(1)[0, 0].int().tolist() == near


def test_one_mask_serves_all_layers() -> None:
    samples = packed_samples()
    assert samples.mask(None) is samples.mask(None)
    assert samples.mask(2) is samples.mask(2)


def test_dropout_is_applied_to_the_weights() -> None:
    """With values of one, the output is the sum of the weights: 1, unless some are dropped."""
    query, key, _ = queries_keys_values()
    ones = torch.ones_like(key)
    attend = partial(
        packed_attention, nn.Identity(), query, key, ones, None, samples=packed_samples(), scaling=0.3
    )
    kept, _ = attend()
    torch.testing.assert_close(kept, torch.ones_like(kept))
    torch.manual_seed(0)
    dropped, _ = attend(dropout=0.5)
    assert float(dropped.std()) > 0.1
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("under_autocast", [False, True])
def test_weights_that_lose_nothing_are_those_of_torch(
    monkeypatch: pytest.MonkeyPatch, precision: torch.dtype, under_autocast: bool
) -> None:
    """What is written out for the CPU, with a dropout that drops nothing, beside torch's own in fp32."""
    given = [each.to(precision) for each in queries_keys_values()]
    attend = partial(packed_attention, nn.Identity(), attention_mask=None, samples=packed_samples())
    by_torch, _ = attend(*(each.float() for each in given))
    monkeypatch.setattr(attention, "dropped", lambda weights, p: weights)
    with torch.autocast("cpu", torch.bfloat16, enabled=under_autocast):
        written_out, _ = attend(*given, dropout=0.5)
    torch.testing.assert_close(written_out, by_torch.to(precision))


def test_the_kernel_is_not_asked_for_what_it_cannot_do() -> None:
    query = torch.zeros(1, 1, 8, 64, dtype=torch.bfloat16)
    assert not attention._flash_attention_fits(query, dropout=0.0)  # on a CPU
