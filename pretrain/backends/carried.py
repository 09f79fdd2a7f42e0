"""What a backend can carry out of an engine config on a device and so many ranks; the rest is refused by its name."""

from typing import Literal

import torch

from pretrain import comm
from pretrain.backends.base import Precision
from pretrain.config import EngineConfig
from pretrain.errors import UsageError

BackendName = Literal["deepspeed", "fsdp"]


def check_carried(engine: EngineConfig, backend: BackendName, world_size: int) -> None:
    """Raises UsageError with every key that this backend, or this number of ranks, cannot honour."""
    zero, problems = engine.zero_optimization, []
    if backend == "deepspeed" and zero.shard_group is not None:
        problems.append(
            "mics_shard_size is not carried by DeepSpeed, which has removed it: use --backend fsdp, or "
            "zero_hpz_partition_size under stage 3"
        )
    for key, ranks in (
        ("mics_shard_size", zero.shard_group),
        ("zero_hpz_partition_size", zero.second_group),
    ):
        if ranks is not None and world_size % ranks:
            problems.append(
                f"{key} is {ranks}, but {world_size} ranks do not divide into groups of {ranks}: choose a "
                "divisor, or start other ranks"
            )
    if problems:
        raise UsageError("; ".join(f"ds_config: zero_optimization.{each}" for each in problems) + ".")


def choose_precision(engine: EngineConfig, backend: BackendName, device: torch.device) -> Precision:
    """What the ds_config says; bf16 is "auto" only where fp16 is not asked for.

    Raises UsageError where the device cannot do it under this backend.
    """
    if engine.fp16.enabled is True:
        if backend == "deepspeed" and not comm.has_native_fp16(device):
            raise UsageError(
                f"fp16.enabled is true in the ds_config, but DeepSpeed refuses fp16 on this {device.type} device, "
                "which has no fp16 arithmetic: use bf16 or fp32 there, or --backend fsdp."
            )
        return "fp16"
    enabled = engine.bf16.enabled
    bf16 = comm.has_fast_bf16(device) if enabled == "auto" else enabled
    return "bf16" if bf16 else "fp32"
