"""Which kernels walk which tensors."""

from collections.abc import Iterator

import pytest
import torch

from pretrain import comm
from pretrain.kernels import kind as kernel_kind
from pretrain.kernels.kind import KernelKind


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    kernel_kind._runs_triton.cache_clear()
    yield
    kernel_kind._runs_triton.cache_clear()


@pytest.mark.parametrize(
    ("device", "dtype", "installed", "missing", "expected"),
    [
        ("cpu", torch.float32, True, None, "numba"),
        ("cpu", torch.float64, False, None, "numba"),
        ("cuda", torch.float32, True, None, "triton"),
        ("cuda:1", torch.float32, True, None, "triton"),
        ("cuda", torch.float64, True, None, "torch"),
        ("cuda", torch.float32, False, None, "torch"),
        ("cuda", torch.float32, True, "a compiler (gcc)", "torch"),
        ("mps", torch.float32, True, None, "torch"),
    ],
)
def test_kind(
    device: str,
    dtype: torch.dtype,
    installed: bool,
    missing: str | None,
    expected: KernelKind,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernel_kind, "find_spec", lambda name: object() if installed else None)
    monkeypatch.setattr(comm, "missing_for_compiling", lambda on: missing)
    assert kernel_kind.kernel_kind(torch.device(device), dtype) == expected
