"""What is known of devices by their names, and where ranks cannot meet."""

import socket

import pytest
import torch

from pretrain import comm
from pretrain.errors import UsageError


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


def test_a_taken_port_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setenv("MASTER_PORT", str(port))
        with pytest.raises(UsageError, match=rf"Port {port} of .* is taken.*expected one.*MASTER_PORT"):
            comm.open_store(comm.Placement(0, 0, 2, 2), 5.0)


def test_a_node_that_does_not_resolve_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*of: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setenv("MASTER_ADDR", "n7")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(UsageError, match=r"MASTER_ADDR is 'n7', and .* cannot resolve it .*expected a name"):
        comm.open_store(comm.Placement(1, 0, 2, 1), 5.0)
    for name, value in {"PROCID": "1", "LOCALID": "0", "NODEID": "1", "STEP_ID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    for name, value in {"TASKS": "2", "NODES": "2"}.items():
        monkeypatch.setenv(f"SLURM_STEP_NUM_{name}", value)
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "1(x2)")
    monkeypatch.setenv("SLURM_STEP_NODELIST", "n[7-8]")
    monkeypatch.delenv("MASTER_ADDR")
    with pytest.raises(UsageError, match=r"SLURM_STEP_NODELIST is 'n\[7-8\]', its first node 'n7', and"):
        comm.open_store(comm.placement(), 5.0)


def test_a_command_sees_no_launcher_and_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "CROSS_SIZE", "SLURM_PROCID", "SLURM_JOB_ID", "SLURM_CONF"):
        monkeypatch.setenv(name, "1")
    found = comm.command_environment(comm.Path("/"))
    assert [name for name in found if name.startswith(("RANK", "CROSS", "SLURM"))] == ["SLURM_CONF"]
