"""Compiled layers: equal to uncompiled ones, in one graph, and never compiled again for rows of another content."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

from pretrain.model import PretrainingModel, attention
from pretrain.model.attention import PackedSamples, packed_attention
from pretrain.model.compilation import compilation_report
from tests.model.packed_rows import PackedRows, lay_out, make_samples
from tests.model.tiny_models import SEQ_LEN, build_tiny

# Lengths of the samples in two rows: unequal numbers of segments, lengths of the longest and amounts of padding.
CONTENTS = [([13, 9], [10, 20]), ([13, 9, 5, 5], [20]), ([30], [22]), ([8, 8, 8, 8], [12])]


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def batches() -> list[PackedRows]:
    found = []
    for first, second in CONTENTS:
        samples = make_samples([*first, *second])
        found.append(lay_out([samples[: len(first)], samples[len(first) :]], SEQ_LEN))
    return found


@torch.library.custom_op("tests::segments", mutates_args=())
def segments(query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, longest: int) -> Tensor:
    """Stands for the kernel, which a CPU has not; opaque to the compiler, as that is."""
    assert int(cu_seqlens.diff().max()) <= longest
    return query + value * len(cu_seqlens)


@segments.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, longest: int) -> Tensor:
    return torch.empty_like(query)


@pytest.mark.parametrize("kernel", [True, False])
def test_one_graph_for_rows_of_any_content(monkeypatch: pytest.MonkeyPatch, kernel: bool) -> None:
    def varlen_attn(query: Tensor, key: Tensor, value: Tensor, *lengths: Any, **_: Any) -> Tensor:
        result: Tensor = segments(query, key, value, lengths[0], lengths[2])
        return result

    if kernel:
        monkeypatch.setattr(attention, "_flash_attention_fits", lambda query, dropout: True)
        monkeypatch.setattr(attention, "varlen_attn", varlen_attn)
    query, key, value = (torch.randn(2, 3, SEQ_LEN, 8) for _ in range(3))

    def attend(samples: PackedSamples) -> Tensor:
        output, _ = packed_attention(
            nn.Identity(), query, key, value, None, samples=samples, sliding_window=5
        )
        return output

    counter = CompileCounter()
    compiled = torch.compile(attend, backend=counter, dynamic=False, fullgraph=True)
    for batch in batches():
        samples = PackedSamples(batch.sample_ids, batch.cu_seqlens, batch.max_seqlen)
        samples.device_has_flash = kernel
        layers = [compiled(samples) for _ in range(2)]  # the second finds the samples as the first left them
        for found in layers:
            torch.testing.assert_close(found, attend(samples))
    assert counter.frame_count == 1


def course(model: PretrainingModel) -> tuple[list[list[float]], dict[str, Tensor], list[int]]:
    """Loss sums of each batch, the gradients of all, and how many graphs there are after each batch."""
    losses, graphs = [], []
    for batch in batches():
        sums = model.train()(batch)
        sum(sums).backward()
        losses.append([float(each.detach()) for each in sums])
        graphs.append(counters["stats"]["unique_graphs"])
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return losses, gradients, graphs


@pytest.mark.slow
@pytest.mark.in_full("a course with compiled layers is held beside the judge's")
def test_compiled_layers_are_the_same_layers(tmp_path: Path) -> None:
    losses, gradients, _ = course(build_tiny(tmp_path, "bert", "nsp"))
    model = build_tiny(tmp_path, "bert", "nsp")
    plain_score = model.eval().score(batches()[0])
    model.compile_blocks()
    for one, other in zip(model.eval().score(batches()[0]), plain_score, strict=True):
        assert torch.equal(one, other)
    assert counters["stats"]["unique_graphs"] == 0  # validation is not compiled
    compiled_losses, compiled_gradients, graphs = course(model)
    assert graphs == [1, 1, 1, 1]  # for three layers and four batches
    assert compiled_losses != losses  # it did run compiled code
    torch.testing.assert_close(compiled_losses, losses, rtol=1e-6, atol=1e-6)
    assert compiled_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        if not name.endswith("key.bias"):  # its gradient is rounding and nothing else
            assert (compiled_gradients[name] - gradient).norm() < 2e-5 * gradient.norm(), name
    assert compilation_report() == ["torch.compile: 1 graph(s), no graph break"]


def test_the_report_names_what_interrupts() -> None:
    def interrupted(x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return x + 1

    torch.compile(interrupted, backend="eager")(torch.zeros(2))
    first, *reasons = compilation_report()
    assert first.endswith("1 kind(s) of graph break")
    assert len(reasons) == 1 and reasons[0].startswith("  1 x ") and "graph_break" in reasons[0]
