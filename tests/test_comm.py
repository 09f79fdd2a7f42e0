"""What is known of devices by their names."""

import pytest
import torch

from pretrain import comm


@pytest.mark.parametrize(
    ("name", "peak"),
    [  # dense: half of what the data sheets state with sparsity (1,979, 1,513 and 1,671 TFLOP/s)
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H200 NVL", 835e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("Tesla T4", None),
    ],
)
def test_peak_by_the_name_of_the_device(
    monkeypatch: pytest.MonkeyPatch, name: str, peak: float | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda on: name)
    assert comm.peak_flops(torch.device("cuda", 0)) == peak
    assert comm.peak_flops(torch.device("cpu")) is None
