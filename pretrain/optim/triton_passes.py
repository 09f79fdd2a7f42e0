"""A step's passes (`pretrain.optim.passes.Passes`) on a GPU: each is one launch of a Triton kernel over all slices.

A program takes one block of one slice, as in `pretrain.kernels.triton_norms`, and reads and writes each array once.
Rates and decays are looked up by the slice's parameter on the device, so that the host waits for nothing. What is
rounded, and when, is as in the loops on the CPU (`pretrain.optim.kernels`): square root and division as IEEE 754 has
them, and no product fused with the sum behind it. So moments, updates and weights are those of the CPU in every bit,
and only sums of squares, which are added in another order, may differ in the last of float64.
"""

import torch
import triton
import triton.language as tl

from pretrain.kernels import triton_norms
from pretrain.kernels.triton_norms import (
    address_of,
    block_of,
    floats_at,
    load,
    plus_squares,
    store,
    sums_by_parameter,
    whole_chunks,
)
from pretrain.optim.moments import AdamOptions, LocalSlices


@triton.jit
def _moved(
    addresses: tl.tuple,
    begin: tl.tensor,
    left: tl.tensor,
    coefficients: tl.tuple,
    CHUNK: tl.constexpr,
    IS_WHOLE: tl.constexpr,
) -> tl.tensor:
    """Moves both moments of a chunk; Adam's direction, and behind the end 0, which both moments are there."""
    factor, rate1, beta2, rate2, scale1, scale2, eps = coefficients
    at_first = floats_at(addresses[2], begin, CHUNK, IS_WHOLE)
    at_second = floats_at(addresses[3], begin, CHUNK, IS_WHOLE)
    value = load(floats_at(addresses[0], begin, CHUNK, IS_WHOLE), left, 0.0, IS_WHOLE) * factor
    exp_avg = load(at_first, left, 0.0, IS_WHOLE)
    exp_avg_sq = load(at_second, left, 1.0, IS_WHOLE)  # what 0 is divided by behind the end
    first = exp_avg + (value - exp_avg) * rate1
    second = exp_avg_sq * beta2 + value * value * rate2
    store(at_first, first, left, IS_WHOLE)
    store(at_second, second, left, IS_WHOLE)
    return tl.div_rn(first * scale1, tl.sqrt_rn(second) * scale2 + eps)


@triton.jit
def _addresses_of(starts: tl.tuple, index: tl.tensor, first: tl.tensor) -> tl.tuple:
    """Of gradients, weights, exp_avg and exp_avg_sq, from element `first` of the slice on."""
    gradients, weights = address_of(starts[0], index, first), address_of(starts[1], index, first)
    return gradients, weights, address_of(starts[2], index, first), address_of(starts[3], index, first)


@triton.jit
def _of_slice(per_parameter: tl.tensor, owners: tl.tensor, index: tl.tensor) -> tl.tensor:
    """In float32, from float64 [num_parameters]."""
    return tl.load(per_parameter + tl.load(owners + index)).to(tl.float32)


@triton.jit
def _write(
    addresses: tl.tuple,
    begin: tl.tensor,
    end: tl.tensor,
    decay: tl.tensor,
    coefficients: tl.tuple,
    of_weights: tl.tensor,
    of_updates: tl.tensor,
    CHUNK: tl.constexpr,
    IS_WHOLE: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    while begin < end:
        left = end - begin
        weight = load(floats_at(addresses[1], begin, CHUNK, IS_WHOLE), left, 0.0, IS_WHOLE)
        update = _moved(addresses, begin, left, coefficients, CHUNK, IS_WHOLE) + decay * weight
        store(floats_at(addresses[0], begin, CHUNK, IS_WHOLE), update, left, IS_WHOLE)
        of_weights, of_updates = plus_squares(of_weights, weight), plus_squares(of_updates, update)
        begin += CHUNK
    return of_weights, of_updates


@triton.jit(do_not_specialize=["num_blocks"])
def _write_updates(
    rows: tl.tensor,
    starts: tl.tuple,
    owners: tl.tensor,
    decays: tl.tensor,
    sums: tl.tensor,
    num_blocks: int,
    coefficients: tl.tuple,
    CHUNK: tl.constexpr,
) -> None:
    """Into `sums`, float64 [2, blocks], go the sums of w * w and of u * u."""
    index, first, count = block_of(rows)
    all4 = _addresses_of(starts, index, first)
    decay = _of_slice(decays, owners, index)
    whole = whole_chunks(all4[0] | all4[1] | all4[2] | all4[3], count, CHUNK)
    none = tl.zeros([CHUNK], tl.float64)
    w_w, u_u = _write(all4, 0 * count, whole, decay, coefficients, none, none, CHUNK, True)
    w_w, u_u = _write(all4, whole, count, decay, coefficients, w_w, u_u, CHUNK, False)
    tl.store(sums + tl.program_id(0), tl.sum(w_w))
    tl.store(sums + num_blocks + tl.program_id(0), tl.sum(u_u))


@triton.jit
def _subtract(
    updates: tl.tensor,
    weights: tl.tensor,
    begin: tl.tensor,
    end: tl.tensor,
    rate: tl.tensor,
    CHUNK: tl.constexpr,
    IS_WHOLE: tl.constexpr,
) -> None:
    while begin < end:
        left, pointers = end - begin, floats_at(weights, begin, CHUNK, IS_WHOLE)
        update = load(floats_at(updates, begin, CHUNK, IS_WHOLE), left, 0.0, IS_WHOLE)
        store(pointers, load(pointers, left, 0.0, IS_WHOLE) - rate * update, left, IS_WHOLE)
        begin += CHUNK


@triton.jit
def _subtract_updates(
    rows: tl.tensor, starts: tl.tuple, owners: tl.tensor, rates: tl.tensor, CHUNK: tl.constexpr
) -> None:
    index, first, count = block_of(rows)
    updates, weights = address_of(starts[0], index, first), address_of(starts[1], index, first)
    rate = _of_slice(rates, owners, index)
    whole = whole_chunks(updates | weights, count, CHUNK)
    _subtract(updates, weights, 0 * count, whole, rate, CHUNK, True)
    _subtract(updates, weights, whole, count, rate, CHUNK, False)


@triton.jit
def _adamw(
    addresses: tl.tuple,
    begin: tl.tensor,
    end: tl.tensor,
    kept: tl.tensor,
    rate: float,
    coefficients: tl.tuple,
    CHUNK: tl.constexpr,
    IS_WHOLE: tl.constexpr,
) -> None:
    while begin < end:
        left, pointers = end - begin, floats_at(addresses[1], begin, CHUNK, IS_WHOLE)
        weight = load(pointers, left, 0.0, IS_WHOLE)
        direction = _moved(addresses, begin, left, coefficients, CHUNK, IS_WHOLE)
        store(pointers, kept * weight - rate * direction, left, IS_WHOLE)
        begin += CHUNK


@triton.jit
def _adamw_step(
    rows: tl.tensor,
    starts: tl.tuple,
    owners: tl.tensor,
    kept: tl.tensor,
    rate: float,
    coefficients: tl.tuple,
    CHUNK: tl.constexpr,
) -> None:
    index, first, count = block_of(rows)
    all4 = _addresses_of(starts, index, first)
    own = _of_slice(kept, owners, index)
    whole = whole_chunks(all4[0] | all4[1] | all4[2] | all4[3], count, CHUNK)
    _adamw(all4, 0 * count, whole, own, rate, coefficients, CHUNK, True)
    _adamw(all4, whole, count, own, rate, coefficients, CHUNK, False)


def write_updates(local: LocalSlices, options: AdamOptions, step: int) -> torch.Tensor:
    table, decays = local.table.on(local.layout.device), local.parameter_decays.table
    num_blocks = len(table.rows)
    sums = torch.empty(2, num_blocks, dtype=torch.float64, device=table.device)
    if num_blocks:
        numbers = options.coefficients(local.gradient_factor, step)
        _write_updates[(num_blocks,)](
            table.rows, local.starts, table.owners, decays, sums, num_blocks, numbers, **_launch()
        )
    return sums_by_parameter(table, sums, len(local.layout.parameters))


def subtract_updates(local: LocalSlices, rates: torch.Tensor) -> None:
    table = local.table.on(local.layout.device)
    if len(table.rows):
        _subtract_updates[(len(table.rows),)](table.rows, local.starts[:2], table.owners, rates, **_launch())


def step_by_directions(local: LocalSlices, options: AdamOptions, lr: float, step: int) -> None:
    table = local.table.on(local.layout.device)
    if len(table.rows):
        kept = 1 - lr * local.parameter_decays.table
        numbers = options.coefficients(local.gradient_factor, step)
        _adamw_step[(len(table.rows),)](
            table.rows, local.starts, table.owners, kept, lr, numbers, **_launch()
        )


def _launch() -> dict[str, int | bool]:
    return {"CHUNK": triton_norms.CHUNK, "num_warps": triton_norms.WARPS, "enable_fp_fusion": False}
