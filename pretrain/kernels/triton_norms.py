"""Sums of squares on a GPU by Triton: one kernel over all slices, and one that adds up what its programs found.

1. Each program takes one block of one slice (`DeviceTable.rows`), whose address it computes from that of the slice: so
   one launch serves any number of tensors. Its sum, in float64, goes into an array of its own.
2. A second kernel adds the blocks' sums by parameter (`DeviceTable.runs`), one program for each.

Nobody adds into what others add into: atomic additions come in another order each time, and float64 would show it. So
the same gradients give the same norm in every bit.
"""

import torch
import triton
import triton.language as tl

from pretrain.kernels.device_table import DeviceTable

# Programs of this many warps take a chunk at a time, four elements for each thread: what is read at once then fits into
# so few registers that several programs share a processor, and some compute while others wait for memory.
WARPS = 8
CHUNK = WARPS * 32 * 4
_SUMS_AT_ONCE = 1024


@triton.jit
def block_of(rows: tl.tensor) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Of this program: slice, its first element, and how many it has."""
    row = rows + 3 * tl.program_id(0)
    first = tl.load(row + 1)
    return tl.load(row), first, tl.load(row + 2) - first


@triton.jit
def address_of(starts: tl.tensor, index: tl.tensor, first: tl.tensor) -> tl.tensor:
    """Of element `first` of the float32 array `index`; `starts`: the arrays' addresses."""
    return tl.load(starts + index) + 4 * first


@triton.jit
def whole_chunks(addresses: tl.tensor, count: tl.tensor, CHUNK: tl.constexpr) -> tl.tensor:
    """How many of `count` elements are walked by whole chunks, moved by 16 bytes: none where the arrays do not begin at
    such a multiple. `addresses`: all of them, or-ed."""
    return tl.where(addresses % 16 == 0, count // CHUNK * CHUNK, 0)


@triton.jit
def floats_at(address: tl.tensor, begin: tl.tensor, CHUNK: tl.constexpr, IS_WHOLE: tl.constexpr) -> tl.tensor:
    """Pointers to the chunk of an array that begins at element `begin`."""
    pointer = (address + 4 * begin).to(tl.pointer_type(tl.float32))
    if IS_WHOLE:
        pointer = tl.multiple_of(pointer, 16)
    return pointer + tl.arange(0, CHUNK)


@triton.jit
def load(pointers: tl.tensor, left: tl.tensor, other: float, IS_WHOLE: tl.constexpr) -> tl.tensor:
    """A whole chunk; or the `left` elements that there still are, and `other` behind them."""
    if IS_WHOLE:
        values = tl.load(pointers)
    else:
        values = tl.load(pointers, mask=tl.arange(0, pointers.shape[0]) < left, other=other)
    return values


@triton.jit
def store(pointers: tl.tensor, values: tl.tensor, left: tl.tensor, IS_WHOLE: tl.constexpr) -> None:
    if IS_WHOLE:
        tl.store(pointers, values)
    else:
        tl.store(pointers, values, mask=tl.arange(0, pointers.shape[0]) < left)


@triton.jit
def plus_squares(totals: tl.tensor, values: tl.tensor) -> tl.tensor:
    """In float64, which holds the square of a float32 whole."""
    wide = values.to(tl.float64)
    return totals + wide * wide


@triton.jit
def _squares(
    address: tl.tensor,
    begin: tl.tensor,
    end: tl.tensor,
    totals: tl.tensor,
    CHUNK: tl.constexpr,
    IS_WHOLE: tl.constexpr,
) -> tl.tensor:
    while begin < end:
        values = load(floats_at(address, begin, CHUNK, IS_WHOLE), end - begin, 0.0, IS_WHOLE)
        totals = plus_squares(totals, values)
        begin += CHUNK
    return totals


@triton.jit
def _squares_of_blocks(rows: tl.tensor, starts: tl.tensor, sums: tl.tensor, CHUNK: tl.constexpr) -> None:
    index, first, count = block_of(rows)
    address = address_of(starts, index, first)
    whole = whole_chunks(address, count, CHUNK)
    totals = _squares(address, 0 * count, whole, tl.zeros([CHUNK], tl.float64), CHUNK, True)
    totals = _squares(address, whole, count, totals, CHUNK, False)
    tl.store(sums + tl.program_id(0), tl.sum(totals))


@triton.jit(do_not_specialize=["num_blocks", "num_parameters"])
def _sums_of_runs(
    runs: tl.tensor,
    per_block: tl.tensor,
    sums: tl.tensor,
    num_blocks: int,
    num_parameters: int,
    BLOCK: tl.constexpr,
) -> None:
    run, kind = runs + 3 * tl.program_id(0), tl.program_id(1)
    begin, last = tl.load(run + 1), tl.load(run + 2)
    total = tl.zeros([BLOCK], tl.float64)
    while begin < last:
        places = begin + tl.arange(0, BLOCK)
        total += tl.load(per_block + kind * num_blocks + places, mask=places < last, other=0.0)
        begin += BLOCK
    tl.store(sums + kind * num_parameters + tl.load(run), tl.sum(total))


def sums_by_parameter(table: DeviceTable, per_block: torch.Tensor, num_parameters: int) -> torch.Tensor:
    """float64 [kinds, num_parameters] of float64 [kinds, blocks]; 0 for what the table does not hold."""
    kinds, num_blocks = per_block.shape
    sums = per_block.new_zeros(kinds, num_parameters)
    if num_blocks:
        _sums_of_runs[(len(table.runs), kinds)](
            table.runs, per_block, sums, num_blocks, num_parameters, BLOCK=_SUMS_AT_ONCE
        )
    return sums


def squared_norms(table: DeviceTable, starts: torch.Tensor, num_parameters: int) -> torch.Tensor:
    """float64 [num_parameters], of float32 slices that begin at `starts`."""
    rows = table.rows
    per_block = torch.empty(1, len(rows), dtype=torch.float64, device=table.device)
    if len(rows):
        # Of one array alone, twice as much is read at a time.
        _squares_of_blocks[(len(rows),)](rows, starts, per_block, CHUNK=2 * CHUNK, num_warps=WARPS)
    return sums_by_parameter(table, per_block, num_parameters)[0]
