"""Keys that DeepSpeed has and this framework does not carry, each with the reason or what to do instead.

A refused key may stay where its value means "off", because then it asks for what is done anyway: `false`, the
neutral number, a block with `enabled` false or with nothing in it switched on.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_OWN_OPTIMIZER = "leave it out: it belongs to an optimizer that is not carried"
_BIT = "leave it out: gradients are summed in full precision, and 1-bit optimizers are not carried"
_REMOVED = "leave it out: DeepSpeed itself has removed it"
_SUMS = "gradients are always summed in fp32; leave it out"
_FULL = "leave it out: it rounds what is exchanged, and master weights and gradients are fp32 here"

REFUSED_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "activation_checkpointing": "set train.activation_checkpointing in the recipe",
        "amp": "use bf16",
        "torch_autocast": "use bf16",
        "fp16.fp16_master_weights_and_grads": "leave it out: master weights are always fp32",
        "fp16.type": "leave it out: parameters are fp16 in the passes, and master weights are always fp32",
        "bf16.bf16_master_weights_and_grads": "leave it out: master weights are always fp32",
        "bf16.bf16_optimizer_states": "leave it out: moments are always fp32",
        "bf16.immediate_grad_update": "leave it out: gradients are accumulated in fp32 as they come",
        "bf16.check_grad_overflow": "leave it out: a gradient that is not finite always ends or skips the step",
        "tensorboard": "the run folder always has tensorboard/",
        "csv_monitor": "the run folder always has metrics.jsonl",
        "wandb": "read metrics.jsonl",
        "comet": "read metrics.jsonl",
        "checkpoint": "set checkpoint.every and checkpoint.keep in the recipe",
        "prescale_gradients": _SUMS,
        "gradient_predivide_factor": _SUMS,
        "gradient_allreduce_op": "leave it out: the loss is divided by global counts and gradients are summed",
        "managed_gradient_accumulation": "leave it out: the loop closes the accumulation itself",
        "optimizer.legacy_fusion": _OWN_OPTIMIZER,
        "optimizer.params.max_grad_norm": "say gradient_clipping",
        "optimizer.params.fused": _OWN_OPTIMIZER,
        "optimizer.params.amsgrad": _OWN_OPTIMIZER,
        **dict.fromkeys(
            ("optimizer.params.muon_lr", "optimizer.params.adam_lr", "optimizer.params.ns_method"), _OWN_OPTIMIZER
        ),
        **dict.fromkeys(
            (
                f"optimizer.params.{name}"
                for name in (
                    "freeze_step", "cuda_aware", "comm_backend_name", "var_freeze_step", "var_update_scaler",
                    "local_step_scaler", "local_step_clipper", "coeff_beta", "factor_max", "factor_min",
                    "factor_threshold",
                )
            ),
            _BIT,
        ),
        "zero_optimization.mics_hierarchical_params_gather": "leave it out: a group is gathered by one all-gather",
        "zero_optimization.zero_quantized_weights": _FULL,
        "zero_optimization.zero_quantized_nontrainable_weights": _FULL,
        "zero_optimization.zero_quantized_gradients": _FULL,
        "zero_optimization.zeropp_loco_param": _FULL,
        "zero_optimization.zenflow": "leave it out: it steps a part of the weights late, which is another course",
        "zero_optimization.offload_optimizer.super_offload": "leave it out: it needs DeepSpeed's own Adam",
        "zero_optimization.offload_optimizer.cpuadam_cores_perc": "leave it out: it needs DeepSpeed's own Adam",
        "zero_optimization.grad_hooks": "leave it out: gradients are reduced as the stage says",
        "zero_optimization.elastic_checkpoint": "leave it out: every checkpoint loads on any number of ranks",
        "zero_optimization.pipeline_loading_checkpoint": "leave it out: checkpoints are this framework's own",
        "zero_optimization.legacy_stage1": _REMOVED,
        "zero_optimization.parameter_alignment": "leave it out: where pieces lie would change",
        "zero_optimization.compute_grad_norm": "leave it out: the norm is the optimizer's own",
        "zero_optimization.override_module_apply": "leave it out: the model is built before it is cut",
        "zero_optimization.enable_sanity_checks": "leave it out",
        "zero_optimization.stage3_module_granularity_threshold": "leave it out: layers are what is gathered",
        "zero_optimization.leaf_module": "leave it out: a layer is gathered whole",
        "zero_optimization.save_muon_momentum_buffer_in_memory": _OWN_OPTIMIZER,
        "aio": "leave it out: it serves NVMe offload, which is not carried",
        "cuda_visible_devices": "set CUDA_VISIBLE_DEVICES in the environment",
        "compile": "set train.compile in the recipe",
        "data_types.param_dtype": "leave it out: master weights are always fp32",
        "data_types.buffer_dtype": "leave it out",
        "elasticity": _REMOVED + "; every checkpoint loads on any number of ranks",
        "flops_profiler": "leave it out: metrics.jsonl has tokens per second and the model's share of the peak",
        **dict.fromkeys(
            ("sparse_attention", "sparse_gradients", "compression_training", "progressive_layer_drop",
             "curriculum_learning", "quantize_training", "eigenvalue", "nebula", "graph_harvesting"),
            _REMOVED,
        ),
        **dict.fromkeys(
            ("data_efficiency", "data_sampling", "random_ltd"),
            "leave it out: which samples a step sees is the recipe's (section data)",
        ),
        **dict.fromkeys(
            ("tensor_parallel", "expert_parallel", "pipeline", "sequence_parallel_size",
             "seq_parallel_communication_data_type", "use_data_before_expert_parallelism", "hybrid_engine"),
            "leave it out: a run is cut over its rows alone",
        ),
        **dict.fromkeys(
            ("comms_logger", "autotuning", "dump_state", "memory_breakdown", "disable_allgather",
             "dataloader_drop_last", "vocabulary_size", "zenflow", "log_level", "disable_python_gc"),
            "leave it out",
        ),
    }
)  # fmt: skip

_NEUTRAL: Mapping[str, float] = MappingProxyType(
    {
        "gradient_predivide_factor": 1.0,
        "sequence_parallel_size": 1,
        "zero_optimization.stage3_module_granularity_threshold": 0,
    }
)
# What is on unless it says no: here `false` asks for something.
ON_BY_DEFAULT = frozenset(
    {
        "bf16.check_grad_overflow",
        "zero_optimization.compute_grad_norm",
        "zero_optimization.grad_hooks",
        "zero_optimization.override_module_apply",
        "managed_gradient_accumulation",
    }
)


def without_what_is_off(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`content` without the refused keys whose value asks for nothing."""
    kept = {}
    for name, value in content.items():
        key = prefix + name
        if key in REFUSED_KEYS and _is_off(key, value):
            continue
        kept[name] = without_what_is_off(value, f"{key}.") if isinstance(value, dict) else value
    return kept


def _is_off(key: str, value: Any) -> bool:
    if key in _NEUTRAL and not isinstance(value, bool):
        return bool(value == _NEUTRAL[key])
    return value is (key in ON_BY_DEFAULT) or _nothing_is_on(value)


def _nothing_is_on(value: Any) -> bool:
    """Of a block: `enabled` is false, or every value in it is false or null."""
    if not isinstance(value, dict):
        return False
    return value.get("enabled") is False or all(each is False or each is None for each in value.values())
