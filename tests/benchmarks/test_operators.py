"""Kinds of operators, by names that torch's profiler has shown."""

import pytest

from tests.benchmarks.operator_kinds import NO_OPERATOR, OPTIMIZER, OTHER, kind_of
from tests.benchmarks.operators import gaps_as_markdown, gaps_of


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::addmm", "matrix products"),
        ("aten::bmm", "attention"),
        ("aten::_softmax_backward_data", "attention"),
        ("aten::_log_softmax_backward_data", "embeddings, head and loss"),
        ("aten::bernoulli_", "dropout"),
        ("aten::random_", "dropout"),
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
        ("triton_poi_fused_addmm_gelu_view_3", "activation"),
        ("triton_per_fused_add_addmm_native_layer_norm_view_2", "normalization"),
        ("triton_tem_fused_addmm_4", "matrix products"),
        ("triton_poi_fused_add_mul_1", "elementwise"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        ("aten::view", OTHER),
        ("_write_updates", "optimizer"),
        ("_sums_of_runs", "optimizer"),
        ("fmha_cutlassF_bf16_aligned_64x64_rf_sm80", "attention"),
        (
            "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>",
            "elementwise",
        ),
        (
            "void at::native::(anonymous namespace)::cunn_SoftMaxForward<4, float>",
            "embeddings, head and loss",
        ),
        ("void at::native::(anonymous namespace)::GammaBetaBackwardCUDAKernel", "normalization"),
    ],
)
def test_kinds(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_gaps_add_up_to_the_step() -> None:
    """By hand: a step of 100 ms, of which products would take 40 ms at the ceiling, attention 10, the optimizer 5."""
    found = {
        "seconds": 0.1,
        "seconds_by_kind": {
            "matrix products": 0.05,
            "attention": 0.02,
            OPTIMIZER: 0.01,
            "dropout": 0.0,
            OTHER: 0.005,
        },
        "flops": {"matrix products": 4e12, "attention": 1e12},
        "product_flops": 1e14,
        "optimizer_bytes": 5e9,
        "copy_bytes_per_second": 1e12,
    }
    gaps = gaps_of(found)
    assert gaps["matrix products"] == pytest.approx((0.05, 0.04))
    assert gaps["attention"] == pytest.approx((0.02, 0.01)) and gaps[OPTIMIZER] == pytest.approx(
        (0.01, 0.005)
    )
    assert (
        gaps[OTHER] == (0.005, 0.0)
        and gaps[NO_OPERATOR] == pytest.approx((0.015, 0.0))
        and "dropout" not in gaps
    )
    assert sum(spent for spent, _ in gaps.values()) == pytest.approx(0.1)
    table = gaps_as_markdown("a cell", found)
    assert "| matrix products | 50.00 | 40.00 | 10.00 | 10.0% | 80 | 80.0% |" in table
    assert "| a step | 100.00 | 55.00 | 45.00 | 45.0% | 50 | 50.0% |" in table
