"""The ds_config: what is honoured, what is refused by its name, what DeepSpeed would let pass in silence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from deepspeed.runtime.precision_config import DeepSpeedFP16Config

from pretrain.config import RunConfig, resolve
from pretrain.config.engine import ON_BY_DEFAULT, REFUSED_KEYS, Fp16
from pretrain.errors import UsageError
from tests.worlds import ROOT

DEMO = ROOT / "launch" / "recipes" / "demo.toml"
Read = Callable[..., RunConfig]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Resolves a ds_config (text, bytes, or what becomes JSON) with overrides."""

    def from_content(content: Any, *overrides: str, world_size: int = 1) -> RunConfig:
        path = tmp_path / "ds.json"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return resolve(
            recipe_path=None,
            default_recipe=DEMO,
            ds_config_path=path,
            overrides=overrides,
            world_size=world_size,
        )

    return from_content


def test_without_a_ds_config_it_is_stage_0_in_fp32() -> None:
    engine = resolve(
        recipe_path=None, default_recipe=DEMO, ds_config_path=None, overrides=[], world_size=1
    ).engine
    assert (engine.stage, engine.bf16.enabled) == (0, False)


@pytest.mark.parametrize("enabled", [True, False, "auto"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_stage_and_precision(read: Read, stage: int, enabled: bool | str) -> None:
    engine = read({"zero_optimization": {"stage": stage}, "bf16": {"enabled": enabled}}).engine
    assert (engine.stage, engine.bf16.enabled) == (stage, enabled)


def test_hints_are_kept_as_written_and_auto_says_nothing(read: Read) -> None:
    config = read(
        {"zero_optimization": {"stage": 3, "reduce_bucket_size": 5e8, "allgather_bucket_size": "auto"}}
    )
    assert config.engine.zero_optimization.given() == {"stage": 3, "reduce_bucket_size": 500_000_000}
    assert isinstance(config.engine.zero_optimization.given()["reduce_bucket_size"], int)
    assert config.unused_hints() == ["zero_optimization.reduce_bucket_size"]


@pytest.mark.parametrize(
    ("content", "key", "nearest"),
    [
        ({"zero_optimzation": {"stage": 2}}, "zero_optimzation", "zero_optimization"),
        ({"gradient_acumulation_steps": 2}, "gradient_acumulation_steps", "gradient_accumulation_steps"),
        ({"zero_optimization": {"stag": 2}}, "zero_optimization.stag", "zero_optimization.stage"),
        ({"stage": 2}, "stage", "zero_optimization.stage"),
        ({"bf16": {"enable": True}}, "bf16.enable", "bf16.enabled"),
        (
            {"optimizer": {"type": "Lamb", "params": {"betta": 1}}},
            "optimizer.params.betta",
            "optimizer.params.betas",
        ),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_one(
    read: Read, tmp_path: Path, content: dict[str, Any], key: str, nearest: str
) -> None:
    with pytest.raises(UsageError) as error:
        read(content)
    expected = f'ds_config {tmp_path / "ds.json"}: unknown key "{key}"; did you mean "{nearest}"?'
    assert str(error.value) == expected


@pytest.mark.parametrize("key", sorted(REFUSED_KEYS))
def test_what_is_not_carried_is_refused_by_its_name_with_advice(read: Read, key: str) -> None:
    asked = key not in ON_BY_DEFAULT
    content: Any = asked
    for part in reversed(key.split(".")):
        content = {part: content}
    with pytest.raises(UsageError) as error:
        read(content)
    assert f'"{key}" = {asked} is not carried here; {REFUSED_KEYS[key]}.' in str(error.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"gradient_clipping": -1}, '"gradient_clipping" is -1'),
        ({"gradient_clipping": "1"}, "\"gradient_clipping\" is '1'"),
        ('{"gradient_clipping": NaN}', '"gradient_clipping" is nan'),
        ({"train_batch_size": 0}, '"train_batch_size" is 0: input should be greater than 0'),
        ({"train_batch_size": True}, '"train_batch_size" is True'),
        ({"train_batch_size": 8.0}, '"train_batch_size" is 8.0'),
        ({"zero_optimization": {"stage": 4}}, '"zero_optimization.stage" is 4: input should be 0, 1, 2 or 3'),
        ({"zero_optimization": {"stage": "2"}}, "\"zero_optimization.stage\" is '2'"),
        ({"zero_optimization": True}, '"zero_optimization" is True: it must be a section'),
        ({"zero_optimization": {"reduce_bucket_size": -5}}, '"zero_optimization.reduce_bucket_size" is -5'),
        (
            {"zero_optimization": {"reduce_bucket_size": 0}},
            '"zero_optimization.reduce_bucket_size" is 0: input should be greater than 0',
        ),
        ({"zero_optimization": {"reduce_bucket_size": 1.5}}, "is 1.5: input should be a whole number."),
        ({"zero_optimization": {"sub_group_size": 0.5}}, "is 0.5: input should be a whole number."),
        ({"zero_optimization": {"stage3_prefetch_bucket_size": 0.5}}, "is 0.5: input should be a whole"),
        ({"zero_optimization": {"allgather_bucket_size": 5e8 + 1}}, "is 500000001.0: input should be even"),
        ({"bf16": {"enabled": "yes"}}, "\"bf16.enabled\" is 'yes'"),
        (
            {"communication_data_type": "bf16"},
            "\"communication_data_type\" is 'bf16': input should be 'fp32'",
        ),
        ({"data_types": {"grad_accum_dtype": "bf16"}}, '"data_types.grad_accum_dtype"'),
        ({"optimizer": {"type": "Rprop"}}, "'Lamb', 'FusedLamb', 'Adam', 'AdamW' or 'SGD'"),
        ({"optimizer": {"type": "Adam", "params": {"lr": "x"}}}, "\"optimizer.params.lr\" is 'x'"),
        ({"optimizer": {"type": "Adam", "params": {"betas": [0.9]}}}, "betas has 1 entries, not 2"),
        ({"optimizer": {"type": "Adam", "params": {"betas": [0.9, 2.0]}}}, "input should be less than 1"),
        ({"optimizer": {"type": "Adam", "params": {"adam_w_mode": False}}}, "optimizer.params.adam_w_mode"),
        (
            {"scheduler": {"type": "StepLR"}},
            "input should be 'WarmupLR', 'WarmupDecayLR' or 'WarmupCosineLR'",
        ),
        ({"scheduler": {"type": "OneCycle", "params": {"cycle_min_lr": 1}}}, "it cycles rate and momentum"),
        ({"scheduler": {"type": "LRRangeTest"}}, "a range test is no training; leave the block out"),
        (
            {"scheduler": {"type": "WarmupLR", "params": {"total_num_steps": 9}}},
            "no parameter total_num_steps",
        ),
        (
            {"scheduler": {"type": "WarmupDecayLR", "params": {"cos_min_ratio": 0}}},
            "no parameter cos_min_ratio",
        ),
        (
            {"scheduler": {"type": "WarmupCosineLR", "params": {"warmup_max_lr": 1}}},
            "no parameter warmup_max_lr",
        ),
        ({"scheduler": {"type": "WarmupCosineLR", "params": {"warmup_min_ratio": 0.1}}}, "warmup_min_ratio"),
        ({"scheduler": {"type": "WarmupDecayLR", "params": {"warmup_min_lr": 0.1}}}, "warmup_min_lr"),
        ({"scheduler": {"type": "WarmupDecayLR", "params": {"warmup_type": "exp"}}}, "warmup_type"),
    ],
)
def test_a_wrong_type_or_value_names_file_key_and_value(
    read: Read, tmp_path: Path, content: Any, complaint: str
) -> None:
    with pytest.raises(UsageError) as error:
        read(content)
    message = str(error.value)
    assert message.startswith(f"ds_config {tmp_path / 'ds.json'}")
    assert complaint in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "is no JSON"),
        ("stage: 2", "is no JSON"),
        ("", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        (b'{"x": "\xff"}', "is no JSON"),
        ('{"bf16": {"enabled": true}, "bf16": {"enabled": false}}', '"bf16" is said twice'),
        ('{"zero_optimization": {"stage": 1, "stage": 2}}', '"stage" is said twice'),
        ("[]", "holds list, not a JSON object"),
        ("3", "holds int, not a JSON object"),
        ("null", "holds NoneType, not a JSON object"),
        (" " * (1 << 20) + "{}", "bytes; is it the right file?"),
    ],
    ids=[
        "open",
        "YAML",
        "empty",
        "deep",
        "not UTF-8",
        "twice",
        "twice inside",
        "list",
        "number",
        "null",
        "big",
    ],
)
def test_what_is_no_ds_config(read: Read, tmp_path: Path, content: Any, complaint: str) -> None:
    with pytest.raises(UsageError) as error:
        read(content)
    assert f"ds_config {tmp_path / 'ds.json'}" in str(error.value)
    assert complaint in str(error.value)


def test_a_missing_ds_config(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ds_config .*missing.json cannot be read: No such file"):
        resolve(
            recipe_path=None,
            default_recipe=DEMO,
            ds_config_path=tmp_path / "missing.json",
            overrides=[],
            world_size=1,
        )


def test_fp16_switched_off_may_stay_in_a_users_file(read: Read) -> None:
    off = {"enabled": False, "loss_scale": 0, "initial_scale_power": 16, "hysteresis": 2}
    assert read({"fp16": off, "bf16": {"enabled": True}}).engine.fp16.enabled is False
    read({"fp16": {"enabled": "auto"}, "bf16": {"enabled": True}})


def test_fp16_has_deepspeeds_keys_and_defaults(read: Read) -> None:
    written = {
        "enabled": True,
        "auto_cast": False,
        "loss_scale": 0,
        "initial_scale_power": 12,
        "loss_scale_window": 500,
        "hysteresis": 3,
        "consecutive_hysteresis": True,
        "min_loss_scale": 2,
    }
    assert read({"fp16": written, "bf16": {"enabled": "auto"}}).engine.fp16.model_dump() == written
    ours, theirs = Fp16().model_dump(), DeepSpeedFP16Config().model_dump()
    del ours["auto_cast"], theirs["auto_cast"], theirs["fp16_master_weights_and_grads"]
    assert ours == theirs


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (
            {"bf16": {"enabled": True}, "fp16": {"enabled": True}},
            '"fp16": bf16.enabled and fp16.enabled exclude each other: set one of them to false.',
        ),
        (
            {"fp16": {"enabled": True, "initial_scale_power": 3, "min_loss_scale": 16}},
            '"fp16": min_loss_scale is above 2 to the power of initial_scale_power: lower it.',
        ),
        ({"fp16": {"loss_scale": -1}}, '"fp16.loss_scale" is -1'),
        ({"fp16": {"loss_scale_window": 0}}, '"fp16.loss_scale_window" is 0'),
        ({"fp16": {"hysteresis": 1.5}}, '"fp16.hysteresis" is 1.5'),
        (
            {"fp16": {"loss_scale": 1e-40}},
            '"fp16.loss_scale" is 1e-40: a scale should be 2 to the power of -24 or more',
        ),
        ({"fp16": {"loss_scale": 2.0**-25}}, '"fp16.loss_scale" is 2.9'),
        ({"fp16": {"min_loss_scale": 0}}, '"fp16.min_loss_scale" is 0'),
        ({"fp16": {"min_loss_scale": 1e-40}}, '"fp16.min_loss_scale" is 1e-40: a scale should'),
        ({"fp16": {"initial_scale_power": 200}}, '"fp16.initial_scale_power" is 200'),
        ({"fp16": {"enabled": "yes"}}, "\"fp16.enabled\" is 'yes'"),
    ],
)
def test_what_fp16_refuses(read: Read, content: Any, complaint: str) -> None:
    with pytest.raises(UsageError) as error:
        read(content)
    assert complaint in str(error.value)


def test_the_lowest_loss_scales_that_fp16_takes(read: Read) -> None:
    for scale in (0, 0.0, 2.0**-24, 1, 128):
        assert read({"fp16": {"loss_scale": scale}}).engine.fp16.loss_scale == scale
    assert read({"fp16": {"min_loss_scale": 2.0**-24}}).engine.fp16.min_loss_scale == 2.0**-24
