"""A blend: each store as it is alone, in shares that hold in every stretch of rows, one endless line as well."""

from itertools import pairwise
from math import isclose

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data.batches import Batch
from pretrain.data.blend import BlendCursor, BlendRows, BlendStream, RowPattern
from pretrain.data.loader import Loader, StepBatches
from pretrain.data.options import SamplingOptions
from pretrain.data.order import Cursor
from pretrain.data.stream import RowStream, StepRows
from pretrain.errors import DataError
from tests.data.fakes import ALL_SPECIAL_IDS, SPECIAL_IDS, VOCAB_SIZE, FakeSplit, random_documents

SEQ_LEN = 64
WEIGHTS = (5, 3, 1)
# Windows and epochs of very different lengths.
SIZES = ((60, 9.0), (25, 14.0), (8, 20.0))
TENSORS = (
    "input_ids",
    "token_type_ids",
    "position_ids",
    "sample_ids",
    "cu_seqlens",
    "masked_positions",
    "masked_labels",
    "masked_is_mask",
    "cls_positions",
    "nsp_labels",
)

weights_of_stores = st.lists(st.integers(1, 50) | st.integers(1, 10**18), min_size=1, max_size=8)


def store_stream(number: int, seed: int = 5) -> RowStream:
    documents, tokens = SIZES[number]
    split = FakeSplit(random_documents(documents, number, 4.0, tokens), block_tokens=300, seed=100 * number)
    options = SamplingOptions(SEQ_LEN, "nsp", packing=True, window_blocks=3)
    return RowStream(split, SPECIAL_IDS, ALL_SPECIAL_IDS, VOCAB_SIZE, options, seed)


def blend_of(weights: tuple[int, ...] = WEIGHTS) -> BlendStream:
    return BlendStream([store_stream(number) for number in range(len(weights))], weights, SEQ_LEN)


def whole(rows: StepRows | BlendRows) -> Batch:
    return rows.batch(0, rows.num_rows)


def assert_same(one: Batch, other: Batch) -> None:
    for name in TENSORS:
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert (one.max_seqlen, one.num_masked, one.num_pairs, one.num_samples, one.num_tokens) == (
        other.max_seqlen,
        other.num_masked,
        other.num_pairs,
        other.num_samples,
        other.num_tokens,
    )


def longest_error(num_stores: int) -> float:
    """Half a row at each fork on a store's way, twice for a run of rows; weights grow at least as Fibonacci's."""
    fibonacci = [1, 1]
    while len(fibonacci) < num_stores:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    return sum(1 / each for each in fibonacci[: num_stores - 1])


@settings(max_examples=300, deadline=None)
@given(weights_of_stores, st.integers(0, 10**15), st.integers(1, 2000))
def test_every_run_of_rows_has_the_shares(weights: list[int], first_row: int, num_rows: int) -> None:
    stores = RowPattern(weights).stores(first_row, num_rows)
    counts = np.zeros((len(weights), num_rows + 1))
    for store in range(len(weights)):
        counts[store, 1:] = np.cumsum(stores == store)
    expected = np.arange(num_rows + 1) * (np.array(weights, dtype=float) / sum(weights))[:, None]
    # Over all runs within: the furthest above the share less the furthest below it.
    errors = (counts - expected).max(axis=1) - (counts - expected).min(axis=1)
    assert errors.max() <= longest_error(len(weights)) + 1e-6
    assert counts[:, -1].sum() == num_rows


@given(weights_of_stores, st.integers(0, 10**15), st.integers(1, 500))
def test_counts_are_those_of_the_rows(weights: list[int], first_row: int, num_rows: int) -> None:
    pattern = RowPattern(weights)
    found = np.bincount(pattern.stores(first_row, num_rows), minlength=len(weights)).tolist()
    before, behind = pattern.counts(first_row), pattern.counts(first_row + num_rows)
    assert [high - low for low, high in zip(before, behind, strict=True)] == found
    assert sum(behind) == first_row + num_rows
    for weight, count in zip(weights, behind, strict=True):
        assert abs(count * sum(weights) - weight * (first_row + num_rows)) < 1.7 * sum(weights)


def test_shares_are_exact_over_a_period() -> None:
    for first_row in (0, 4, 10**18 + 1):
        counts = np.bincount(RowPattern(WEIGHTS).stores(first_row, sum(WEIGHTS) * 40))
        assert counts.tolist() == [40 * weight for weight in WEIGHTS]


def test_a_pattern_of_two_by_hand() -> None:
    assert RowPattern([3, 1]).stores(0, 8).tolist() == [0, 1, 0, 0, 0, 1, 0, 0]
    assert RowPattern([1, 1]).stores(1, 4).tolist() == [1, 0, 1, 0]
    assert RowPattern([7]).stores(9, 3).tolist() == [0, 0, 0]


@given(weights_of_stores, st.integers(0, 10**15), st.lists(st.integers(1, 90), min_size=1, max_size=5))
def test_a_pattern_is_one_line_wherever_it_is_cut(weights: list[int], row: int, sizes: list[int]) -> None:
    pattern = RowPattern(weights)
    together = pattern.stores(row, sum(sizes)).tolist()
    parts: list[int] = []
    for size in sizes:
        parts += pattern.stores(row + len(parts), size).tolist()
    assert parts == together


@pytest.mark.parametrize("weights", [[], [1, 0], [2, -1]])
def test_a_weight_that_is_none(weights: list[int]) -> None:
    with pytest.raises(ValueError, match="positive whole numbers"):
        RowPattern(weights)


def test_a_blend_of_one_store_is_that_store() -> None:
    blend, alone = blend_of((4,)), store_stream(0)
    rows, expected = blend.step(BlendCursor.start(1), 150), alone.step(Cursor(0, 0, 0), 150)
    assert_same(whole(rows), whole(expected))
    assert rows.sample_names() == [f"0:{name}" for name in expected.sample_names()]
    assert rows.next_cursor == BlendCursor(150, (expected.next_cursor,))


def test_each_store_is_as_it_is_alone() -> None:
    """Row by row: contents, masks and names are those of the next row of the store's own stream."""
    rows, pattern = blend_of().step(BlendCursor.start(3), 130), RowPattern(WEIGHTS).stores(0, 130)
    streams, cursors = [store_stream(number) for number in range(3)], [Cursor(0, 0, 0)] * 3
    names: list[str] = []
    for number, store in enumerate(pattern.tolist()):
        alone = streams[store].step(cursors[store], 1)
        assert_same(rows.batch(number, 1), alone.batch(0, 1))
        names += [f"{store}:{name}" for name in alone.sample_names()]
        cursors[store] = alone.next_cursor
    assert rows.sample_names() == names
    assert rows.next_cursor == BlendCursor(130, tuple(cursors))
    assert min(cursor.epoch for cursor in cursors) >= 1  # each store has begun again


def test_a_batch_is_its_rows_one_by_one() -> None:
    rows = blend_of().step(BlendCursor.start(3), 60)
    together, single = whole(rows), [rows.batch(row, 1) for row in range(60)]
    for name in ("input_ids", "token_type_ids", "position_ids", "sample_ids"):
        assert torch.equal(getattr(together, name), torch.cat([getattr(batch, name) for batch in single]))
    for name, count in (("masked_positions", "num_masked"), ("cls_positions", "num_samples")):
        shifted = [
            getattr(batch, name)[: getattr(batch, count)] + SEQ_LEN * row for row, batch in enumerate(single)
        ]
        assert torch.equal(getattr(together, name)[: getattr(together, count)], torch.cat(shifted))
    for name, count in (
        ("masked_labels", "num_masked"),
        ("masked_is_mask", "num_masked"),
        ("nsp_labels", "num_samples"),
    ):
        found = [getattr(batch, name)[: getattr(batch, count)] for batch in single]
        assert torch.equal(getattr(together, name)[: getattr(together, count)], torch.cat(found))
    assert torch.equal(together.cu_seqlens.diff(), torch.cat([batch.cu_seqlens.diff() for batch in single]))


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=6))
def test_steps_of_any_size_give_the_same_rows(sizes: list[int]) -> None:
    """Going on from each step's cursor, through a list as a checkpoint keeps it, in a stream made anew."""
    cursor, steps = BlendCursor.start(3), []
    for size in sizes:
        steps.append(blend_of().step(cursor, size))
        assert (steps[-1].cursor, steps[-1].num_rows) == (cursor, size)
        cursor = BlendCursor.from_list(steps[-1].next_cursor.as_list(), 3)
    rows = blend_of().step(BlendCursor.start(3), sum(sizes))
    assert rows.next_cursor == cursor
    assert rows.sample_names() == [name for step in steps for name in step.sample_names()]
    assert torch.equal(whole(rows).input_ids, torch.cat([whole(step).input_ids for step in steps]))
    assert rows.num_attended == sum(step.num_attended for step in steps)
    for count in ("num_masked", "num_pairs", "num_samples", "num_tokens"):
        assert getattr(rows, count) == sum(getattr(step, count) for step in steps)
        assert getattr(rows, count) == getattr(whole(rows), count)


def test_another_store_beside_it_changes_no_store() -> None:
    def names(weights: tuple[int, ...], store: int) -> list[str]:
        rows = blend_of(weights).step(BlendCursor.start(len(weights)), 200)
        return [name for name in rows.sample_names() if name.startswith(f"{store}:")]

    for one, other in pairwise([names((1, 1), 1), names((1, 7, 3), 1), names((9, 2), 1)]):
        shared = min(len(one), len(other))
        assert shared > 30
        assert one[:shared] == other[:shared]


@pytest.mark.parametrize(("world", "micro_batch"), [(1, 16), (1, 2), (2, 4), (4, 2)])
def test_rows_of_a_step_do_not_depend_on_the_cut(world: int, micro_batch: int) -> None:
    """Two ranks, and other accumulation, are one rank; the names are those of the global batch on each."""

    def steps(rank: int) -> list[StepBatches]:
        with Loader(
            blend_of(), BlendCursor.start(3), 16, micro_batch, rank, world, name_samples=True
        ) as loader:
            return [next(loader) for _ in range(12)]

    stream, cursor = blend_of(), BlendCursor.start(3)
    for shares in zip(*map(steps, range(world)), strict=True):
        expected = stream.step(cursor, 16)
        batches = [share.micro_batches[g] for g in range(len(shares[0].micro_batches)) for share in shares]
        assert torch.equal(torch.cat([batch.input_ids for batch in batches]), whole(expected).input_ids)
        labels = [batch.masked_labels[: batch.num_masked] for batch in batches]
        assert torch.equal(torch.cat(labels), whole(expected).masked_labels[: expected.num_masked])
        for share in shares:
            assert share.cursor.as_list() == cursor.as_list()
            assert (share.num_masked, share.sample_names) == (expected.num_masked, expected.sample_names())
        cursor = expected.next_cursor
    assert max(each.epoch for each in cursor.stores) > 0


def test_cursor_goes_through_json() -> None:
    cursor = BlendCursor(7, (Cursor(1, 2, 3), Cursor(4, 5, 6)))
    assert cursor.as_list() == [7, 1, 2, 3, 4, 5, 6]
    assert BlendCursor.from_list(cursor.as_list(), 2) == cursor


@pytest.mark.parametrize("values", [[], [0, 0, 0], [0] * 6, [0] * 8, [-1, *[0] * 6], [0, 0, 0, 0, 0, 0, 1.0]])
def test_a_broken_cursor_is_refused(values: list[int]) -> None:
    with pytest.raises(DataError, match="a blend of 2 stores is 7 non-negative integers"):
        BlendCursor.from_list(values, 2)


def test_rows_outside_the_step_are_refused() -> None:
    rows = blend_of().step(BlendCursor.start(3), 10)
    for first_row, num_rows in ((-1, 2), (0, 0), (5, 6)):
        with pytest.raises(ValueError, match="do not lie within 10 rows"):
            rows.batch(first_row, num_rows)


def test_the_bound_of_the_docstring() -> None:
    assert longest_error(3) == 2.0
    assert isclose(longest_error(60), 3.3599, abs_tol=1e-3)
