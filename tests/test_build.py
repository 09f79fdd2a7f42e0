"""From a configuration to what an engine is built from."""

import json
from math import nan
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._inductor import cpp_builder
from torch._inductor.exc import InvalidCxxCompiler

from pretrain import comm
from pretrain.backends.base import finished_step, make_loss_scaler
from pretrain.backends.carried import BackendName, check_carried
from pretrain.build import Request, engine_options, optimizer_rule
from pretrain.comm import Placement
from pretrain.config import EngineConfig, resolve
from pretrain.errors import UsageError
from pretrain.optim import LambOptions, Skip
from tests.worlds import ROOT


def request(folder: Path, backend: BackendName, ds_config: dict[str, Any], *overrides: str) -> Request:
    path = folder / "ds.json"
    path.write_text(json.dumps(ds_config))
    config = resolve(
        recipe_path=None,
        default_recipe=ROOT / "launch/recipes/demo.toml",
        ds_config_path=path,
        overrides=overrides,
        world_size=1,
    )
    return Request(config, backend, None, folder, "auto", Placement(0, 0, 1, 1), torch.device("cpu"))


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(
    ("ds_config", "precision"),
    [
        ({}, ("fp32", "fp32")),
        ({"bf16": {"enabled": True}}, ("bf16", "bf16")),
        ({"bf16": {"enabled": "auto"}}, ("fp32", "bf16")),
        ({"bf16": {"enabled": "auto"}, "fp16": {"enabled": "auto"}}, ("fp32", "bf16")),
        ({"bf16": {"enabled": "auto"}, "fp16": {"enabled": True}}, ("fp16", "fp16")),
    ],
)
def test_precision(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ds_config: dict[str, Any],
    precision: tuple[str, str],
    fast: bool,
) -> None:
    monkeypatch.setattr(comm, "has_fast_bf16", lambda on: fast)
    assert engine_options(request(tmp_path, "fsdp", ds_config)).precision == precision[fast]


def test_deepspeed_has_fp16_only_where_the_device_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request(tmp_path, "deepspeed", {"fp16": {"enabled": True}})
    monkeypatch.setattr(comm, "has_native_fp16", lambda on: False)
    with pytest.raises(
        UsageError, match=r"fp16\.enabled .*this cpu device.*bf16 or fp32 .*or --backend fsdp"
    ):
        engine_options(asked)
    monkeypatch.setattr(comm, "has_native_fp16", lambda on: True)
    assert engine_options(asked).precision == "fp16"


@pytest.mark.parametrize(
    ("zero", "backend", "ranks", "complaint"),
    [
        ({"stage": 3, "mics_shard_size": 2}, "deepspeed", 4, "which has removed it: use --backend fsdp"),
        ({"stage": 3, "mics_shard_size": 3}, "fsdp", 4, "4 ranks do not divide into groups of 3"),
        ({"stage": 3, "mics_shard_size": 8}, "fsdp", 4, "4 ranks do not divide into groups of 8"),
        ({"stage": 3, "zero_hpz_partition_size": 3}, "fsdp", 4, "zero_hpz_partition_size is 3"),
        ({"stage": 3, "zero_hpz_partition_size": 3}, "deepspeed", 4, "zero_hpz_partition_size is 3"),
        ({"stage": 3, "zero_hpz_partition_size": 2}, "deepspeed", 4, None),
        ({"stage": 1, "mics_shard_size": 2}, "fsdp", 4, None),
        ({"stage": 3, "mics_shard_size": -1}, "deepspeed", 4, None),
        ({"stage": 0}, "fsdp", 3, None),
    ],
)
def test_what_a_backend_cannot_carry_is_refused(
    zero: dict[str, Any], backend: BackendName, ranks: int, complaint: str | None
) -> None:
    engine = EngineConfig.model_validate({"zero_optimization": zero})
    if complaint is None:
        check_carried(engine, backend, ranks)
        return
    with pytest.raises(UsageError) as error:
        check_carried(engine, backend, ranks)
    assert str(error.value).startswith("ds_config: zero_optimization.") and complaint in str(error.value)


def test_all_that_a_backend_cannot_carry_is_in_one_message(tmp_path: Path) -> None:
    asked = request(tmp_path, "deepspeed", {"zero_optimization": {"stage": 3, "mics_shard_size": 2}})
    with pytest.raises(UsageError, match=r"removed it.*; ds_config: .*1 ranks do not divide"):
        engine_options(asked)


@pytest.mark.parametrize(
    ("search_path", "missing"), [("no-such-folder", "a compiler"), (None, "Python's headers")]
)
def test_compiling_without_its_tools_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search_path: str | None, missing: str
) -> None:
    asked = request(tmp_path, "fsdp", {}, "train.compile=true")
    assert engine_options(asked).compile
    monkeypatch.delenv("CXX", raising=False)
    if search_path is not None:
        monkeypatch.setenv("PATH", search_path)
    else:
        monkeypatch.setattr(comm.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(UsageError, match=rf"^train\.compile needs {missing} \(.*\) on every machine"):
        engine_options(asked)


def test_a_compiler_is_one_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch reads the variable: it finds no compiler of this name either."""
    asked = request(tmp_path, "fsdp", {}, "train.compile=true")
    monkeypatch.setenv("CXX", "env g++")
    with pytest.raises(
        UsageError, match=r"needs a compiler \(CXX is 'env g\+\+', taken for the name of one program"
    ):
        engine_options(asked)
    with cpp_builder.config.patch({"cpp.cxx": (None, "env g++")}), pytest.raises(InvalidCxxCompiler):
        cpp_builder.get_cpp_compiler()


@pytest.mark.parametrize(
    ("overrides", "params", "bounds"),
    [
        (["optimizer.min_trust=0.5", "optimizer.max_trust=0.4"], {}, "0.5 and at most 0.4"),
        (["optimizer.variant=deepspeed", "optimizer.min_trust=0.5"], {}, "0.5 and at most 0.3"),
        (["optimizer.variant=deepspeed", "optimizer.max_trust=0.005"], {}, "0.01 and at most 0.005"),
        ([], {"min_coeff": 0.5, "max_coeff": 0.4}, "0.5 and at most 0.4"),
    ],
)
def test_bounds_of_the_trust_ratio_leave_something_between_them(
    tmp_path: Path, overrides: list[str], params: dict[str, float], bounds: str
) -> None:
    ds_config = {"optimizer": {"type": "Lamb", "params": params}}
    with pytest.raises(
        UsageError, match=rf"^LAMB's trust ratio would be at least {bounds}: set optimizer.min_trust"
    ):
        optimizer_rule(request(tmp_path, "fsdp", ds_config, *overrides).config.recipe)
    equal = ["optimizer.min_trust=0.5", "optimizer.max_trust=0.5"]
    rule = optimizer_rule(request(tmp_path, "fsdp", {}, *equal).config.recipe)
    assert isinstance(rule, LambOptions) and rule.min_trust == rule.max_trust == 0.5


@pytest.mark.parametrize(
    ("fp16", "scale", "after_overflow"),
    [
        ({}, 2.0**16, 2.0**16),  # DeepSpeed's hysteresis of 2 forgives the first
        ({"hysteresis": 1, "initial_scale_power": 4}, 16, 8),
        ({"hysteresis": 1, "initial_scale_power": 4, "min_loss_scale": 12}, 16, 12),
        ({"loss_scale": 128}, 128, 128),
    ],
)
def test_loss_scale(tmp_path: Path, fp16: dict[str, Any], scale: float, after_overflow: float) -> None:
    options = engine_options(request(tmp_path, "fsdp", {"fp16": {"enabled": True, **fp16}}))
    scaler = make_loss_scaler(options)
    assert scaler.scale == scale
    scaler.update(overflow=True)
    assert scaler.scale == after_overflow


def test_without_fp16_the_scale_is_1(tmp_path: Path) -> None:
    options = engine_options(request(tmp_path, "fsdp", {"fp16": {"enabled": False, "loss_scale": 128}}))
    assert make_loss_scaler(options).scale == 1


@pytest.mark.parametrize("enabled", [True, False])
def test_what_the_scale_is_told_of_a_skipped_step(tmp_path: Path, enabled: bool) -> None:
    """A spike is a good step, which counts towards growth; what is not finite is named by whether there is a scale."""
    block = {"enabled": enabled, "initial_scale_power": 4, "hysteresis": 1, "loss_scale_window": 1}
    scaler = make_loss_scaler(engine_options(request(tmp_path, "fsdp", {"fp16": block})))
    spike, bad = Skip("spike", "too large", 3), Skip("not finite", "the norm is nan")
    results = [finished_step(scaler, norm, skip) for norm, skip in ((9.0, spike), (1.0, None), (nan, bad))]
    assert results[0] == (9.0, spike, 16.0 if enabled else 1.0)
    assert [result.loss_scale for result in results] == ([16.0, 16.0, 32.0] if enabled else [1.0] * 3)
    last = results[2].skip
    assert last is not None and last.reason == ("overflow" if enabled else "not finite")
    assert scaler.scale == (16.0 if enabled else 1.0)


def test_overflows_are_counted_in_a_row_at_the_lowest_scale(tmp_path: Path) -> None:
    block = {"enabled": True, "initial_scale_power": 1, "hysteresis": 1}
    scaler = make_loss_scaler(engine_options(request(tmp_path, "fsdp", {"fp16": block})))
    skips = [finished_step(scaler, nan, Skip("not finite", "nan")).skip for _ in range(3)]
    assert [skip and skip.in_row for skip in skips] == [0, 1, 2]  # at scales 2, 1 and 1


def test_a_noise_scale_needs_two_micro_batches_in_the_smallest_batch(tmp_path: Path) -> None:
    cut = ("train.global_batch=8", "train.micro_batch=4")
    assert engine_options(request(tmp_path, "fsdp", {}, *cut, "log.noise_every=3")).accumulation == 2
    staged = (*cut, "train.batch_stages=[[2, 4]]")
    assert engine_options(request(tmp_path, "fsdp", {}, *staged)).accumulation == 2
    with pytest.raises(
        UsageError, match=r"^log\.noise_every .* a global batch of 4 rows is one micro-batch: "
    ):
        engine_options(request(tmp_path, "fsdp", {}, *staged, "log.noise_every=3"))
    with pytest.raises(UsageError, match=r"lower train\.micro_batch or leave log\.noise_every out"):
        engine_options(request(tmp_path, "fsdp", {}, cut[0], "train.micro_batch=8", "log.noise_every=3"))
