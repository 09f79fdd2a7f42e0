"""Device, precision, compiler, memory and limits, each provoked once."""

import json
import resource
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from pretrain import comm
from pretrain.doctor import machine
from pretrain.placement import Placement
from tests.doctor.heres import make_here, only

CPU_ONLY = pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")


def ds_config(path: Path, **content: object) -> str:
    path.write_text(json.dumps(content))
    return f"--ds_config={path}"


@CPU_ONLY
def test_a_driver_without_a_gpu_for_torch(tmp_path: Path) -> None:
    only(machine.check_device(make_here(tmp_path), tmp_path / "none"), "ok", "no GPU", "gloo")
    driver = tmp_path / "version"
    driver.touch()
    only(machine.check_device(make_here(tmp_path), driver), "warning", "finds no GPU", "--gpus-per-node")


@CPU_ONLY
def test_a_precision_that_the_device_has_not(tmp_path: Path) -> None:
    fp16 = ds_config(tmp_path / "fp16.json", fp16={"enabled": True})
    if not comm.has_native_fp16(torch.device("cpu")):
        only(machine.check_precision(make_here(tmp_path, fp16)), "failed", "fp16.enabled", "use bf16 or fp32")
        only(
            machine.check_precision(make_here(tmp_path, fp16, "--backend=fsdp")),
            "warning",
            "fp16.enabled to false",
        )
    bf16 = ds_config(tmp_path / "bf16.json", bf16={"enabled": True})
    verdict = "ok" if comm.has_fast_bf16(torch.device("cpu")) else "warning"
    only(machine.check_precision(make_here(tmp_path, bf16)), verdict, "bf16")
    only(machine.check_precision(make_here(tmp_path)), "ok", "fp32")


def test_a_compiler_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    only(machine.check_compiler(make_here(tmp_path)), "warning", "no-such-compiler", "this run needs none")
    only(
        machine.check_compiler(make_here(tmp_path, "train.compile=true")),
        "failed",
        "no-such-compiler",
        "install it",
    )
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    only(machine.check_compiler(make_here(tmp_path)), "warning", "g++")
    (tmp_path / "g++").touch(mode=0o755)
    if Path(sysconfig.get_path("include"), "Python.h").exists():
        only(machine.check_compiler(make_here(tmp_path)), "ok")


def test_an_engine_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "deepspeed"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('libmpi.so is not there')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    only(machine.check_engine(make_here(tmp_path)), "failed", "libmpi.so is not there", "--backend")


@pytest.mark.slow
def test_memory_that_is_not_enough(tmp_path: Path) -> None:
    """Shared among a million ranks, any machine's is too little."""
    many = Placement(0, 0, 1, 1_000_000)
    only(
        machine.check_memory(make_here(tmp_path, place=many)),
        "warning",
        "by `pretrain plan`",
        "train.micro_batch",
    )


def test_shared_memory_matters_to_nccl_alone(tmp_path: Path) -> None:
    two, none = Placement(0, 0, 2, 2), tmp_path / "none"
    gpu = make_here(tmp_path, place=two, device="cuda")
    only(machine.check_shared_memory(gpu, none), "warning", f"no {none}", "--shm-size=1g")
    only(machine.check_shared_memory(make_here(tmp_path, place=two), none), "ok", "gloo needs none")


def test_open_files_for_many_ranks(tmp_path: Path) -> None:
    here = make_here(tmp_path, "train.global_batch=4096", place=Placement(0, 0, 1024, 8))
    with soft_limit(1024):
        only(machine.check_open_files(here), "warning", "1024 files", "1024 rank(s)", "ulimit -n 65536")
        only(machine.check_open_files(make_here(tmp_path)), "ok", "1024 files")


@contextmanager
def soft_limit(files: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
