"""ds_configs as they stand in public documentation: with their keys and values, key by key taken or refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from pretrain.config import RunConfig, resolve
from pretrain.config.engine import REFUSED_KEYS
from pretrain.errors import UsageError
from tests.worlds import ROOT

DEMO = ROOT / "launch" / "recipes" / "demo.toml"
AUTO = "auto"
# What Hugging Face's integration fills in.
FILLED_IN = {
    "gradient_accumulation_steps": AUTO,
    "gradient_clipping": AUTO,
    "train_batch_size": AUTO,
    "train_micro_batch_size_per_gpu": AUTO,
    "steps_per_print": 2000,
    "wall_clock_breakdown": False,
}
ADAMW = {"type": "AdamW", "params": {"lr": AUTO, "betas": AUTO, "eps": AUTO, "weight_decay": AUTO}}
WARMUP = {
    "type": "WarmupLR",
    "params": {"warmup_min_lr": AUTO, "warmup_max_lr": AUTO, "warmup_num_steps": AUTO},
}
HALVES = {
    "fp16": {
        "enabled": AUTO,
        "loss_scale": 0,
        "loss_scale_window": 1000,
        "initial_scale_power": 16,
        "hysteresis": 2,
        "min_loss_scale": 1,
    },
    "bf16": {"enabled": AUTO},
}
CPU = {"device": "cpu", "pin_memory": True}
STAGE_3 = {
    "stage": 3,
    "overlap_comm": True,
    "contiguous_gradients": True,
    "sub_group_size": 1e9,
    "reduce_bucket_size": AUTO,
    "stage3_prefetch_bucket_size": AUTO,
    "stage3_param_persistence_threshold": AUTO,
    "stage3_max_live_parameters": 1e9,
    "stage3_max_reuse_distance": 1e9,
    "stage3_gather_16bit_weights_on_model_save": True,
}
NVME = {"device": "nvme", "nvme_path": "/local_nvme", "pin_memory": True, "buffer_count": 4}

TAKEN: dict[str, dict[str, Any]] = {
    "Hugging Face, ZeRO-2 with offload": {
        **HALVES,
        "optimizer": ADAMW,
        "scheduler": WARMUP,
        "zero_optimization": {
            "stage": 2,
            "offload_optimizer": CPU,
            "allgather_partitions": True,
            "allgather_bucket_size": 2e8,
            "overlap_comm": True,
            "reduce_scatter": True,
            "reduce_bucket_size": 2e8,
            "contiguous_gradients": True,
            "round_robin_gradients": True,
        },
        **FILLED_IN,
    },
    "Hugging Face, ZeRO-3 with offload": {
        **HALVES,
        "optimizer": ADAMW,
        "scheduler": WARMUP,
        "zero_optimization": {**STAGE_3, "offload_optimizer": CPU, "offload_param": CPU},
        **FILLED_IN,
    },
    "Accelerate, no offload": {
        **HALVES,
        "zero_optimization": {
            "stage": 3,
            "offload_optimizer": {"device": "none", "nvme_path": None},
            "offload_param": {"device": "none", "nvme_path": None},
            "stage3_gather_16bit_weights_on_model_save": True,
        },
        "gradient_clipping": AUTO,
    },
    "DeepSpeedExamples, BERT on SQuAD": {
        "train_batch_size": 24,
        "train_micro_batch_size_per_gpu": 3,
        "steps_per_print": 10,
        "optimizer": {"type": "Adam", "params": {"lr": 3e-5, "weight_decay": 0.0, "bias_correction": False}},
        "gradient_clipping": 1.0,
        "fp16": {"enabled": True},
    },
    "DeepSpeedExamples, LAMB, without its attention": {
        "train_batch_size": 65536,
        "train_micro_batch_size_per_gpu": 64,
        "steps_per_print": 1000,
        "prescale_gradients": False,
        "optimizer": {
            "type": "Lamb",
            "params": {
                "lr": 11e-3,
                "weight_decay": 0.01,
                "bias_correction": False,
                "max_coeff": 0.3,
                "min_coeff": 0.01,
            },
        },
        "gradient_clipping": 1.0,
        "wall_clock_breakdown": False,
        "fp16": {"enabled": True, "loss_scale": 0},
    },
    "old names, and blocks that are switched off": {
        "bfloat16": {"enabled": True, "check_grad_overflow": True},
        "zero_optimization": {"stage": 2, "cpu_offload": True, "cpu_offload_use_pin_memory": False},
        "amp": {"enabled": False, "opt_level": "O1"},
        "flops_profiler": {"enabled": False, "profile_step": 1},
        "activation_checkpointing": {"partition_activations": False, "number_checkpoints": None},
        "gradient_predivide_factor": 1.0,
        "sparse_gradients": False,
    },
}


def read(folder: Path, content: dict[str, Any]) -> RunConfig:
    path = folder / "ds.json"
    path.write_text(json.dumps(content))
    return resolve(recipe_path=None, default_recipe=DEMO, ds_config_path=path, overrides=[], world_size=1)


@pytest.mark.parametrize("name", TAKEN)
def test_is_taken_as_it_stands(tmp_path: Path, name: str) -> None:
    engine = read(tmp_path, TAKEN[name]).engine
    zero = engine.zero_optimization
    offloads = ("offload" in name and "no offload" not in name) or name.startswith("old")
    assert zero.offloads_optimizer == offloads
    assert zero.offloads_parameters == (name == "Hugging Face, ZeRO-3 with offload")
    if name.startswith("old"):
        assert engine.bf16.enabled is True and zero.pins_memory is False


REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "Hugging Face, NVMe": (
        {
            **HALVES,
            "zero_optimization": {**STAGE_3, "offload_optimizer": NVME, "offload_param": NVME},
            "aio": {"block_size": 262144, "queue_depth": 32, "single_submit": False, "overlap_events": True},
            **FILLED_IN,
        },
        ["zero_optimization.offload_optimizer.device", "zero_optimization.offload_param.device", "aio"],
    ),
    "DeepSpeedExamples, 1-bit LAMB": (
        {
            "train_batch_size": 65536,
            "prescale_gradients": False,
            "optimizer": {
                "type": "OneBitLamb",
                "params": {"lr": 11e-3, "freeze_step": 1000, "cuda_aware": True},
            },
            "fp16": {"enabled": True, "loss_scale": 0},
        },
        ["optimizer.type"],
    ),
    "ZeRO++": (
        {
            "zero_optimization": {
                "stage": 3,
                "zero_hpz_partition_size": 1,
                "zero_quantized_weights": True,
                "zero_quantized_gradients": True,
            }
        },
        ["zero_optimization.zero_quantized_weights", "zero_optimization.zero_quantized_gradients"],
    ),
    "DeepSpeedExamples, sparse attention and layer drop": (
        {
            "prescale_gradients": True,
            "gradient_predivide_factor": 8.0,
            "sparse_attention": {"mode": "fixed", "block": 16},
            "progressive_layer_drop": {"enabled": True, "theta": 0.5, "gamma": 0.001},
            "cuda_visible_devices": 0,
            "train_batch_sise": 4096,
        },
        [
            "prescale_gradients",
            "gradient_predivide_factor",
            "sparse_attention",
            "progressive_layer_drop",
            "cuda_visible_devices",
            "train_batch_sise",
        ],
    ),
    "low-precision masters and monitors": (
        {
            "bf16": {"enabled": True, "bf16_master_weights_and_grads": True, "bf16_optimizer_states": True},
            "torch_autocast": {"enabled": True, "dtype": "bfloat16"},
            "tensorboard": {"enabled": True, "output_path": "out"},
            "wandb": {"enabled": False},
        },
        ["bf16.bf16_master_weights_and_grads", "bf16.bf16_optimizer_states", "torch_autocast", "tensorboard"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_every_key_that_does_not_fit_is_named_with_its_reason(tmp_path: Path, name: str) -> None:
    content, keys = REFUSED[name]
    with pytest.raises(UsageError) as error:
        read(tmp_path, content)
    head, *lines = str(error.value).split("\n")
    sentences = lines or [head]
    assert head.startswith(f"ds_config {tmp_path / 'ds.json'}: ")
    assert not lines or head.endswith(f": {len(keys)} keys do not fit:")
    assert len(sentences) == len(keys)
    for key in keys:
        (sentence,) = (each for each in sentences if f'"{key}"' in each)
        assert REFUSED_KEYS.get(key, "") in sentence


@pytest.mark.parametrize(
    ("zero", "message"),
    [
        (
            {"stage": 2, "offload_param": CPU},
            "offload_param needs stage 3, and stage is 2: change one of them.",
        ),
        ({"stage": 0, "offload_optimizer": CPU}, "offload_optimizer needs stage 1 or higher, and stage is 0"),
        ({"stage": 0, "mics_shard_size": 2}, "mics_shard_size needs stage 1 or higher"),
        ({"stage": 2, "zero_hpz_partition_size": 2}, "zero_hpz_partition_size needs stage 3"),
        ({"stage": 3, "mics_shard_size": 2, "zero_hpz_partition_size": 2}, "two ways to the same end"),
        ({"stage": 2, "cpu_offload": True, "offload_optimizer": CPU}, "cpu_offload is the old name of"),
        ({"stage": 3, "offload_optimizer": {**CPU, "ratio": 0.3}}, "only 1 is carried"),
        ({"stage": 3, "offload_optimizer": NVME}, "nvme is not carried"),
        ({"stage": 3, "offload_optimizer": {"device": "disk"}}, "input should be 'cpu' or 'none'"),
        ({"stage": 3, "mics_shard_size": 0}, '"zero_optimization.mics_shard_size" is 0'),
    ],
)
def test_what_the_zero_block_refuses(tmp_path: Path, zero: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        read(tmp_path, {"zero_optimization": zero})
    assert message in str(error.value)
