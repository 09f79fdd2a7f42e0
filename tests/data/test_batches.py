"""Batches against a row written out by hand and against rows built token by token."""

from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data.batches import Batch
from pretrain.data.mask import Masking, ordinary_ids
from pretrain.data.options import SamplingOptions
from pretrain.data.order import Cursor
from pretrain.data.pack import PackedRows
from pretrain.data.rows import RowLayout
from pretrain.data.samples import SamplePlan
from pretrain.data.stream import RowStream
from pretrain.data.windows import PlannedWindow
from tests.data.fakes import ALL_SPECIAL_IDS, SPECIAL_IDS, VOCAB_SIZE, FakeSplit, random_documents

PAD, CLS, SEP, MASK = (SPECIAL_IDS[name] for name in ("pad", "cls", "sep", "mask"))


def stream_of(objective: str = "nsp", packing: bool = True, seq_len: int = 64, **changes: float) -> RowStream:
    options = SamplingOptions(seq_len, objective, packing, window_blocks=3, **changes)  # type: ignore[arg-type]
    split = FakeSplit(random_documents(60, sentences=4.0, tokens=9.0), block_tokens=300)
    return RowStream(split, SPECIAL_IDS, ALL_SPECIAL_IDS, VOCAB_SIZE, options, seed=5)


def unmasked(batch: Batch) -> torch.Tensor:
    """The input ids with the original tokens back in the selected positions."""
    ids = batch.input_ids.flatten().clone()
    ids[batch.masked_positions[: batch.num_masked]] = batch.masked_labels[: batch.num_masked]
    return ids.view_as(batch.input_ids)


def test_two_rows_by_hand() -> None:
    """Samples 0 (A 10 11, B 14), 2 (A 15, B 10 11) in a row, sample 1 (A 12, B 13 14 15 16) in the next."""
    tokens = np.arange(10, 17, dtype=np.uint16)
    plan = SamplePlan(
        a_start=np.array([0, 2, 5]),
        a_length=np.array([2, 1, 1]),
        b_start=np.array([4, 3, 0]),
        b_length=np.array([1, 4, 2]),
        nsp_label=np.array([1, 0, 1]),
        num_window_tokens=7,
    )
    rows = PackedRows(np.array([0, 2, 3]), np.array([0, 2, 1]))
    options = SamplingOptions(13, "nsp", packing=True, mask_probability=0.01, mask_token_share=1.0,
                              random_token_share=0.0)  # fmt: skip
    masking = Masking(options, MASK, ordinary_ids(VOCAB_SIZE, ALL_SPECIAL_IDS), 1)
    layout = RowLayout(tokens, plan, rows, masking, SPECIAL_IDS)
    batch = Batch.from_arrays([layout.arrays(0, 2)], 13)
    assert unmasked(batch).tolist() == [
        [CLS, 10, 11, SEP, 14, SEP, CLS, 15, SEP, 10, 11, SEP, PAD],
        [CLS, 12, SEP, 13, 14, 15, 16, SEP, PAD, PAD, PAD, PAD, PAD],
    ]
    assert batch.token_type_ids.tolist() == [
        [0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 0],
        [0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
    ]
    assert batch.position_ids.tolist() == [
        [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 0],
        [0, 1, 2, 3, 4, 5, 6, 7, 0, 0, 0, 0, 0],
    ]
    assert batch.sample_ids.tolist() == [[1] * 6 + [2] * 6 + [0], [1] * 8 + [0] * 5]
    assert batch.cu_seqlens.tolist() == [0, 6, 12, 13, 21, 26]
    assert batch.max_seqlen == 8
    assert batch.cls_positions.tolist() == [0, 6, 13] + [0] * 13
    assert batch.nsp_labels.tolist() == [1, 1, 0] + [-100] * 13
    assert (batch.num_masked, batch.num_pairs, batch.num_samples, batch.num_tokens) == (3, 3, 3, 20)
    assert (batch.input_ids == MASK).sum() == 3
    assert (batch.masked_positions[3:] == 0).all() and (batch.masked_labels[3:] == -100).all()
    assert batch.masked_is_mask.tolist() == [True] * 3 + [False] * 61
    dtypes = (batch.input_ids.dtype, batch.sample_ids.dtype, batch.cu_seqlens.dtype, batch.nsp_labels.dtype)
    assert dtypes == (torch.int64, torch.int32, torch.int32, torch.int64)


def sample_tokens(window: PlannedWindow, tokens: np.ndarray, sample: int) -> list[int]:
    plan = window.plan
    a, b = int(plan.a_start[sample]), int(plan.b_start[sample])
    text_a = tokens[a : a + int(plan.a_length[sample])].tolist()
    text_b = tokens[b : b + int(plan.b_length[sample])].tolist()
    return [CLS, *text_a, SEP] + ([*text_b, SEP] if text_b else [])


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("objective", ["nsp", "sop", "mlm"])
def test_rows_hold_the_planned_samples(objective: str, packing: bool) -> None:
    stream = stream_of(objective, packing)
    window = stream.window(0, 1)
    blocks = [window.split.block(index) for index in window.blocks]
    tokens = np.concatenate([block.tokens for block in blocks])
    num_rows = window.rows.num_rows
    batch = stream.step(Cursor(0, 1, 0), num_rows).batch(0, num_rows)
    ids, positions, sample_ids = unmasked(batch), batch.position_ids, batch.sample_ids
    for row in range(num_rows):
        samples = window.rows.samples[window.rows.offsets[row] : window.rows.offsets[row + 1]]
        texts = [sample_tokens(window, tokens, int(sample)) for sample in samples]
        padding = 64 - sum(map(len, texts))
        numbers = [[number + 1] * len(text) for number, text in enumerate(texts)]
        assert ids[row].tolist() == [*chain(*texts), *[PAD] * padding]
        assert positions[row].tolist() == [*chain(*(range(len(text)) for text in texts)), *[0] * padding]
        assert sample_ids[row].tolist() == [*chain(*numbers), *[0] * padding]
    labels = window.plan.nsp_label[window.rows.samples].tolist()
    assert batch.nsp_labels[: batch.num_samples].tolist() == labels
    assert (ids.flatten()[batch.cls_positions[: batch.num_samples]] == CLS).all()
    has_sep_after_a = (batch.token_type_ids == 1).any().item()
    assert has_sep_after_a == (objective != "mlm")


@pytest.mark.parametrize("objective", ["nsp", "sop", "mlm"])
def test_segments_are_the_runs_of_sample_ids(objective: str) -> None:
    batch = stream_of(objective).step(Cursor(0, 0, 0), 40).batch(0, 40)
    numbers = batch.sample_ids.flatten()
    row = torch.arange(40).repeat_interleave(64)
    changes = (numbers[1:] != numbers[:-1]) | (row[1:] != row[:-1])
    expected = [0, *(torch.nonzero(changes).flatten() + 1).tolist(), 40 * 64]
    assert batch.cu_seqlens.tolist() == expected
    assert batch.max_seqlen == np.diff(expected).max()


@pytest.mark.parametrize("objective", ["nsp", "sop", "mlm"])
@pytest.mark.parametrize("packing", [True, False])
def test_counts_known_from_the_plan_are_those_of_the_batch(objective: str, packing: bool) -> None:
    stream = stream_of(objective, packing)
    rows = stream.step(Cursor(0, 0, 3), 150)  # more than two windows
    batches = [rows.batch(first, 30) for first in range(0, 150, 30)]
    for name in ("num_masked", "num_pairs", "num_samples", "num_tokens"):
        assert getattr(rows, name) == sum(getattr(batch, name) for batch in batches)
    lengths = [row[row > 0].unique(return_counts=True)[1] for batch in batches for row in batch.sample_ids]
    assert rows.num_attended == sum(int(each.square().sum()) for each in lengths)
    assert rows.num_samples == len(rows.sample_names())
    assert rows.num_tokens == sum(int((batch.sample_ids > 0).sum()) for batch in batches)
    assert rows.num_pairs == (0 if objective == "mlm" else rows.num_samples)
    assert rows.num_masked == sum(int((batch.masked_labels >= 0).sum()) for batch in batches)
    assert all(len(batch.masked_labels) % 64 == 0 and len(batch.nsp_labels) % 16 == 0 for batch in batches)


def test_masked_inputs_agree_with_their_flags() -> None:
    batch = stream_of().step(Cursor(0, 0, 0), 40).batch(0, 40)
    positions = batch.masked_positions[: batch.num_masked]
    inputs = batch.input_ids.flatten()[positions]
    assert ((inputs == MASK) == batch.masked_is_mask[: batch.num_masked]).all()
    assert int((batch.input_ids == MASK).sum()) == int(batch.masked_is_mask.sum())


@settings(max_examples=20)
@given(
    objective=st.sampled_from(["nsp", "sop", "mlm"]),
    packing=st.booleans(),
    first_row=st.integers(0, 15),
    num_rows=st.integers(1, 20),
    draw_key=st.integers(0, 2**64 - 1),
)
def test_shuffling_moves_only_the_context_within_each_sample(
    objective: str, packing: bool, first_row: int, num_rows: int, draw_key: int
) -> None:
    batch = stream_of(objective, packing).step(Cursor(0, 0, first_row), num_rows).batch(0, num_rows)
    shuffled = batch.shuffled(draw_key)
    before, after = batch.input_ids.flatten(), shuffled.input_ids.flatten()
    fixed = torch.zeros(len(before), dtype=torch.bool)
    fixed[batch.masked_positions[: batch.num_masked]] = True
    fixed |= (unmasked(batch).flatten()[:, None] == torch.tensor([PAD, CLS, SEP])).any(dim=1)
    assert torch.equal(before[fixed], after[fixed])
    for begin, end in zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True):
        assert sorted(before[begin:end].tolist()) == sorted(after[begin:end].tolist())
    assert torch.equal(batch.masked_labels, shuffled.masked_labels)
    assert torch.equal(batch.position_ids, shuffled.position_ids)


def test_shuffling_does_not_depend_on_the_batch() -> None:
    rows = stream_of().step(Cursor(0, 0, 0), 12)
    whole = rows.batch(0, 12).shuffled(7)
    assert (whole.input_ids != rows.batch(0, 12).input_ids).float().mean() > 0.6
    parts = [rows.batch(first, 4).shuffled(7) for first in (0, 4, 8)]
    assert torch.equal(whole.input_ids, torch.cat([part.input_ids for part in parts]))
    assert not torch.equal(whole.input_ids, rows.batch(0, 12).shuffled(8).input_ids)


def test_moving_a_batch_moves_every_tensor() -> None:
    batch = stream_of().step(Cursor(0, 0, 0), 4).batch(0, 4)
    moved = batch.to("meta")
    tensors = [value for value in vars(moved).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 10
    assert all(tensor.device.type == "meta" for tensor in tensors)
    assert moved.num_masked == batch.num_masked
