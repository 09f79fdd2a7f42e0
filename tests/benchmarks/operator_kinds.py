"""Kinds of operators and of GPU kernels, by parts of the names that torch's profiler shows."""

PRODUCTS, ATTENTION, OPTIMIZER, NO_OPERATOR = "matrix products", "attention", "optimizer", "no operator"
# Parts of names, in this order.
KINDS = {
    # The last are our Triton kernels.
    OPTIMIZER: (
        *("optimizer.step", "optimizer.zero_grad", "_squares_of_blocks", "_sums_of_runs"),
        *("_write_updates", "_subtract_updates", "_adamw_step"),
    ),
    "exchange": ("c10d", "nccl", "gloo", "allreduce", "all_reduce", "all_gather", "reduce_scatter", "fsdp"),
    ATTENTION: (
        *("attention", "flash", "varlen", "fmha", "sdpa", "softmax_backward_data", "_softmax", "bmm"),
        *("isneginf", "aten::all"),
    ),
    PRODUCTS: ("mm", "linear", "matmul", "mkldnn", "nvjet", "cutlass", "gemv", "splitk"),
    "dropout": ("bernoulli", "random_", "dropped", "dropout"),
    "normalization": ("layer_norm", "layernorm"),
    "activation": ("gelu", "tanh"),
    "embeddings, head and loss": ("embedding", "index", "gather", "radixsort"),
    "copies": ("copy", "aten::cat", "fill_", "zero_", "clone", "split", "memcpy", "memset", "fillfunctor"),
    "elementwise": (
        *("mul", "add", "div", "sum", "where", "neg", "eq", "sub", "sqrt", "pow", "bitwise", "masked_fill"),
        *("triton", "cpp_fused", "elementwise", "reduce_kernel"),
    ),
}
# Names that parts of others would mislead about.
_FIRST = {
    "embeddings, head and loss": ("log_softmax", "nll_loss", "softmaxforward", "softmaxbackward"),
    "normalization": ("gammabeta",),
}
OTHER = "other operators"
# Inductor names a kernel after the operators whose work it does, a product's bias too; products are templates there.
_FUSED, _TEMPLATES, _NEVER_FUSED = "triton_", ("triton_tem_", "triton_mm"), (PRODUCTS, ATTENTION)


def kind_of(name: str) -> str:
    """Of an operator or a kernel."""
    lower = name.lower()
    is_fused = lower.startswith(_FUSED) and not lower.startswith(_TEMPLATES)
    ordered = [*_FIRST.items(), *KINDS.items()]
    if is_fused:
        ordered = [(kind, parts) for kind, parts in ordered if kind not in _NEVER_FUSED]
    return next((kind for kind, parts in ordered if any(part in lower for part in parts)), OTHER)
