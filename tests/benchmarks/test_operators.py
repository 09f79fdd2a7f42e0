"""Kinds of operators, by names that torch's profiler has shown."""

import pytest

from tests.benchmarks.operators import OTHER, kind_of


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::addmm", "matrix products"),
        ("aten::bmm", "attention"),
        ("aten::_softmax_backward_data", "attention"),
        ("aten::_log_softmax_backward_data", "embeddings, head and loss"),
        ("aten::bernoulli_", "dropout"),
        ("aten::native_layer_norm_backward", "normalization"),
        ("aten::gelu", "activation"),
        ("aten::copy_", "copies"),
        ("aten::mul", "elementwise"),
        ("Optimizer.step#ShardedOptimizer.step", "optimizer"),
        ("c10d::allreduce_", "exchange"),
        ("FSDP::all_gather", "exchange"),
        ("ncclDevKernel_AllReduce_Sum_f32_RING_LL", "exchange"),
        ("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_NNT", "matrix products"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu>", "matrix products"),
        ("pytorch_flash::flash_bwd_kernel", "attention"),
        ("triton_per_fused_native_layer_norm_0", "normalization"),
        ("triton_poi_fused_add_mul_1", "elementwise"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        ("aten::view", OTHER),
    ],
)
def test_kinds(name: str, kind: str) -> None:
    assert kind_of(name) == kind
