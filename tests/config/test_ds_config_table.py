"""The table of every ds_config key in ds_configs/README.md, the code, and what DeepSpeed documents: all three agree."""

import re

import pytest
from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from deepspeed.runtime.zero.offload_config import (
    DeepSpeedZeroOffloadOptimizerConfig,
    DeepSpeedZeroOffloadParamConfig,
)

from pretrain.config import EngineConfig
from pretrain.config.complaints import known_keys
from pretrain.config.engine import (
    ENGINE_KEYS_WITHOUT_EFFECT,
    FSDP_HINTS,
    HINTS,
    NO_EFFECT,
    OLD_NAMES,
    REFUSED_KEYS,
)
from tests.worlds import ROOT

TEXT = (ROOT / "ds_configs" / "README.md").read_text(encoding="utf-8")
ROWS = re.findall(
    r"^\| `([\w.]+)` \| ([^|]+) \| ([^|]+) \|$", TEXT.partition("## Every key")[2], re.MULTILINE
)
KINDS = ("honoured", "recipe", "hint", "no counterpart", "no effect", "refused", "read as")
BATCH = {
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
}

# The names on https://www.deepspeed.ai/docs/config-json/ (August 2026). Of blocks that are refused the block alone.
DOCUMENTED = {
    "": "train_batch_size train_micro_batch_size_per_gpu gradient_accumulation_steps managed_gradient_accumulation "
    "communication_data_type gradient_allreduce_op prescale_gradients gradient_predivide_factor sparse_gradients amp "
    "torch_autocast gradient_clipping aio tensor_parallel hybrid_engine expert_parallel steps_per_print "
    "wall_clock_breakdown dump_state autotuning flops_profiler activation_checkpointing sparse_attention "
    "data_efficiency curriculum_learning tensorboard wandb comet csv_monitor elasticity comms_logger "
    "compression_training checkpoint compile zero_allow_untested_optimizer",
    "optimizer": "type",
    "optimizer.params": "lr betas eps weight_decay momentum muon_lr adam_lr ns_method torch_adam adam_w_mode "
    "freeze_step cuda_aware comm_backend_name var_freeze_step var_update_scaler local_step_scaler local_step_clipper "
    "max_coeff min_coeff coeff_beta factor_max factor_min factor_threshold bias_correction",
    "scheduler": "type",
    "scheduler.params": "warmup_min_lr warmup_max_lr warmup_num_steps",
    "fp16": "enabled auto_cast loss_scale initial_scale_power loss_scale_window hysteresis consecutive_hysteresis "
    "min_loss_scale fp16_master_weights_and_grads",
    "bf16": "enabled bf16_master_weights_and_grads bf16_optimizer_states",
    "zero_optimization": "stage allgather_partitions allgather_bucket_size overlap_comm reduce_scatter "
    "reduce_bucket_size contiguous_gradients load_from_fp32_weights grad_hooks round_robin_gradients "
    "stage3_max_live_parameters stage3_max_reuse_distance stage3_prefetch_bucket_size "
    "stage3_param_persistence_threshold stage3_gather_16bit_weights_on_model_save "
    "stage3_module_granularity_threshold zero_hpz_partition_size zero_quantized_weights zero_quantized_gradients "
    "log_trace_cache_warnings cpu_offload sub_group_size elastic_checkpoint ignore_unused_parameters",
    "zero_optimization.offload_param": "device nvme_path pin_memory buffer_count buffer_size max_in_cpu",
    "zero_optimization.offload_optimizer": "device nvme_path pin_memory ratio buffer_count fast_init",
    "data_types": "grad_accum_dtype",
}


def leaves() -> list[str]:
    """Keys of the ds_config that hold values, not blocks."""
    keys = list(known_keys(EngineConfig))
    return [key for key in keys if not any(other.startswith(key + ".") for other in keys)]


def kinds_by_code(key: str) -> tuple[str, str]:
    """What the code makes of a key under DeepSpeed and under FSDP."""
    name = key.rpartition(".")[2]
    if key in OLD_NAMES:
        return "read as", "read as"
    if key in REFUSED_KEYS:
        return "refused", "refused"
    if key in BATCH or key.startswith(("optimizer.", "scheduler.")):
        return "recipe", "recipe"
    if key.startswith("zero_optimization.") and name in HINTS:
        return "hint", "hint" if name in FSDP_HINTS else "no counterpart"
    if key in ENGINE_KEYS_WITHOUT_EFFECT or (key.startswith("zero_optimization.") and name in NO_EFFECT):
        return "no effect", "no effect"
    exceptions = {
        "zero_optimization.mics_shard_size": ("refused", "honoured"),
        "steps_per_print": ("honoured", "no effect"),
        "wall_clock_breakdown": ("honoured", "no effect"),
        "fp16.auto_cast": ("no effect", "no effect"),
    }
    if key in exceptions:
        return exceptions[key]
    nvme = ".offload_" in key and name not in ("device", "pin_memory", "ratio")
    return ("no effect", "no effect") if nvme else ("honoured", "honoured")


def test_the_table_and_the_code_have_the_same_keys() -> None:
    in_table = [key for key, _, _ in ROWS]
    assert len(set(in_table)) == len(in_table)
    assert set(in_table) == {*leaves(), *REFUSED_KEYS, *OLD_NAMES}
    assert not REFUSED_KEYS.keys() & known_keys_and_old_names()


def known_keys_and_old_names() -> set[str]:
    return {*known_keys(EngineConfig), *OLD_NAMES}


@pytest.mark.parametrize(("key", "deepspeed", "fsdp"), ROWS, ids=lambda cell: cell.partition(" ")[0])
def test_a_row_says_what_the_code_does(key: str, deepspeed: str, fsdp: str) -> None:
    found = tuple(next(kind for kind in KINDS if cell.startswith(kind)) for cell in (deepspeed, fsdp))
    assert found == kinds_by_code(key)
    if key in REFUSED_KEYS:
        assert deepspeed == f"refused: {REFUSED_KEYS[key]}"
    if key in OLD_NAMES:
        assert deepspeed == f"read as `{OLD_NAMES[key]}`"


def test_every_documented_key_is_in_the_table() -> None:
    documented = {
        f"{block}.{name}".lstrip(".") for block, names in DOCUMENTED.items() for name in names.split()
    }
    assert documented - {key for key, _, _ in ROWS} == set()


@pytest.mark.parametrize(
    ("block", "theirs"),
    [
        ("zero_optimization", DeepSpeedZeroConfig),
        ("zero_optimization.offload_param", DeepSpeedZeroOffloadParamConfig),
        ("zero_optimization.offload_optimizer", DeepSpeedZeroOffloadOptimizerConfig),
        ("fp16", DeepSpeedFP16Config),
        ("bf16", DeepSpeedBF16Config),
    ],
)
def test_every_key_of_the_installed_deepspeed_is_known(block: str, theirs: type) -> None:
    names = {field.alias or name for name, field in theirs.model_fields.items()}  # type: ignore[attr-defined]
    assert {f"{block}.{name}" for name in names} - {
        *known_keys(EngineConfig),
        *REFUSED_KEYS,
        *OLD_NAMES,
    } == set()
