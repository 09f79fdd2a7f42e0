"""The stream is one endless line of rows: it can be cut, sought and repeated anywhere."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data.batches import Batch
from pretrain.data.options import SamplingOptions
from pretrain.data.order import Cursor, permute
from pretrain.data.stream import RowStream, StepRows
from pretrain.errors import DataError
from tests.data.fakes import ALL_SPECIAL_IDS, SPECIAL_IDS, VOCAB_SIZE, Documents, FakeSplit, random_documents
from tests.data.stored import write_store

DOCUMENTS = random_documents(60, sentences=4.0, tokens=9.0)


def stream_of(
    documents: Documents = DOCUMENTS, objective: str = "nsp", seed: int = 5, block_tokens: int = 300
) -> RowStream:
    options = SamplingOptions(64, objective, packing=True, window_blocks=3)  # type: ignore[arg-type]
    split = FakeSplit(documents, block_tokens)
    return RowStream(split, SPECIAL_IDS, ALL_SPECIAL_IDS, VOCAB_SIZE, options, seed)


def all_rows(rows: StepRows) -> Batch:
    return rows.batch(0, rows.num_rows)


def inputs_of(steps: Sequence[StepRows]) -> torch.Tensor:
    return torch.cat([all_rows(step).input_ids for step in steps])


def test_the_stream_of_the_tests_has_several_windows() -> None:
    stream = stream_of()
    assert stream.windows_per_epoch >= 3
    assert stream.epoch_rows(0).num_rows > 30


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=6))
def test_steps_of_any_size_give_the_same_rows(sizes: list[int]) -> None:
    """Across windows and epochs: contents, names and cursor of many steps are those of one."""
    stream, cursor, steps = stream_of(), Cursor(0, 0, 0), []
    for size in sizes:
        steps.append(stream.step(cursor, size))
        assert (steps[-1].cursor, steps[-1].num_rows) == (cursor, size)
        cursor = steps[-1].next_cursor
    whole = stream_of().step(Cursor(0, 0, 0), sum(sizes))
    assert whole.next_cursor == cursor
    assert whole.sample_names() == [*chain(*(step.sample_names() for step in steps))]
    assert torch.equal(all_rows(whole).input_ids, inputs_of(steps))
    assert whole.num_masked == sum(step.num_masked for step in steps)


def test_seeking_to_a_cursor_is_having_streamed_there() -> None:
    stream, cursor = stream_of(), Cursor(0, 0, 0)
    for _ in range(40):
        step = stream.step(cursor, 7)
        sought = stream_of().step(cursor, 7)
        assert sought.sample_names() == step.sample_names()
        assert torch.equal(all_rows(sought).input_ids, all_rows(step).input_ids)
        cursor = step.next_cursor
    assert cursor.epoch >= 2


def test_rows_are_made_alike_whichever_are_asked_for() -> None:
    """The batch that spans windows equals its rows one by one, positions and masks included."""
    rows = stream_of().step(Cursor(0, 0, 1), 60)
    assert len(rows.pieces) > 1
    whole = all_rows(rows)
    single = [rows.batch(row, 1) for row in range(60)]
    positions = [batch.masked_positions[: batch.num_masked] + 64 * row for row, batch in enumerate(single)]
    cls = [batch.cls_positions[: batch.num_samples] + 64 * row for row, batch in enumerate(single)]
    assert torch.equal(whole.input_ids, torch.cat([batch.input_ids for batch in single]))
    assert torch.equal(whole.masked_positions[: whole.num_masked], torch.cat(positions))
    assert torch.equal(whole.cls_positions[: whole.num_samples], torch.cat(cls))
    lengths = torch.cat([batch.cu_seqlens.diff() for batch in single])
    assert torch.equal(whole.cu_seqlens.diff(), lengths)


def test_an_epoch_shows_every_token_once_and_epochs_differ() -> None:
    stream = stream_of(objective="mlm")
    split = FakeSplit(DOCUMENTS, 300)
    stored = Counter(
        token for index in range(split.num_blocks) for token in split.block(index).tokens.tolist()
    )
    orders = []
    for epoch in range(2):
        batch = all_rows(stream.epoch_rows(epoch))
        ids = batch.input_ids.flatten().clone()
        ids[batch.masked_positions[: batch.num_masked]] = batch.masked_labels[: batch.num_masked]
        assert Counter(token for token in ids.tolist() if token not in ALL_SPECIAL_IDS) == stored
        orders.append(batch.input_ids)
    assert orders[0].shape != orders[1].shape or not torch.equal(orders[0], orders[1])


def test_masks_of_the_same_sample_differ_between_epochs() -> None:
    """One document that fits a row is the whole stream: only its mask can change."""
    stream = stream_of([[40]], "mlm")
    masks = {tuple(all_rows(stream.epoch_rows(epoch)).masked_positions.tolist()) for epoch in range(5)}
    assert len(masks) == 5


def test_masks_of_the_same_sample_differ_between_seeds() -> None:
    masks = [all_rows(stream_of([[40]], "mlm", seed).epoch_rows(0)).masked_positions for seed in range(5)]
    assert len({tuple(mask.tolist()) for mask in masks}) == 5


def test_plans_and_rows_of_the_same_window_differ_between_epochs() -> None:
    """A store of one block: neither pairs nor, where there is nothing to plan, the order of rows repeat."""
    pairs = stream_of(block_tokens=10**6)
    assert pairs.window(0, 0).plan.b_start.tolist() != pairs.window(1, 0).plan.b_start.tolist()
    whole_rows = stream_of([[62]] * 20, "mlm", block_tokens=10**6)
    assert [name[4:] for name in whole_rows.epoch_rows(0).sample_names()] != [
        name[4:] for name in whole_rows.epoch_rows(1).sample_names()
    ]


def test_every_epoch_has_all_blocks_in_another_order() -> None:
    stream = stream_of()
    epochs = [
        [block for window in range(stream.windows_per_epoch) for block in stream.window(epoch, window).blocks]
        for epoch in range(4)
    ]
    assert all(sorted(blocks) == list(range(len(blocks))) for blocks in epochs)
    assert len({tuple(blocks) for blocks in [*epochs, range(len(epochs[0]))]}) == 5


def test_the_stream_stays_what_it_was() -> None:
    """Pinned, not derived: a change here sends every run that resumes to other samples or other masks."""
    documents = [[(7 * i + 5 * j) % 23 + 1 for j in range(i % 9 + 1)] for i in range(40)]
    rows = stream_of(documents).step(Cursor(3, 1, 2), 8)
    samples = [27, 9, 30, 1, 23, 22, 7, 29, 4, 0]
    assert [name.split(":")[3] for name in rows.sample_names()] == [*map(str, samples)]
    assert rows.sample_names()[:2] == ["3:1:1:27", "3:1:3:9"]
    batch = all_rows(rows)
    assert batch.masked_positions[:10].tolist() == [19, 20, 23, 26, 31, 35, 40, 44, 50, 72]
    cls_positions = [0, 64, 128, 175, 192, 226, 256, 320, 384, 448]
    assert batch.cls_positions[: batch.num_samples].tolist() == cls_positions


def test_a_name_says_in_which_block_the_sample_begins() -> None:
    """Sought in the text: A's tokens follow one another in that block."""
    split = FakeSplit(DOCUMENTS, 300)
    rows = stream_of().step(Cursor(0, 0, 3), 60)
    batch = all_rows(rows)
    ids = batch.input_ids.flatten().clone()
    ids[batch.masked_positions[: batch.num_masked]] = batch.masked_labels[: batch.num_masked]
    blocks = [int(name.split(":")[2]) for name in rows.sample_names()]
    assert len(set(blocks)) > 3
    for first, block in zip(batch.cls_positions[: batch.num_samples].tolist(), blocks, strict=True):
        text = ids[first + 1 :].tolist()
        a = text[: text.index(SPECIAL_IDS["sep"])]
        tokens = split.block(block).tokens.tolist()
        assert any(tokens[at : at + len(a)] == a for at in range(len(tokens)))


@pytest.mark.parametrize("packing", [True, False])
def test_another_order_of_windows_has_other_names(packing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents of one length, so that nothing but the place in the store tells them apart."""

    def names() -> list[str]:
        options = SamplingOptions(64, "mlm", packing=packing, window_blocks=2)
        split = FakeSplit([[40]] * 60, 300)
        stream = RowStream(split, SPECIAL_IDS, ALL_SPECIAL_IDS, VOCAB_SIZE, options, 5)
        return stream.step(Cursor(0, 0, 0), 12).sample_names()

    expected = names()
    assert names() == expected

    def two_windows_swapped(positions: np.ndarray, size: int, draw_key: int) -> np.ndarray:
        return permute((positions + 2) % 4 if positions.max() < 4 else positions, size, draw_key)

    monkeypatch.setattr("pretrain.data.stream.permute", two_windows_swapped)
    swapped = names()
    assert swapped != expected
    assert {name.split(":")[2] for name in swapped}.isdisjoint(name.split(":")[2] for name in expected)


def test_seeds_differ() -> None:
    one, other = (all_rows(stream_of(seed=seed).step(Cursor(0, 0, 0), 20)) for seed in (5, 6))
    assert not torch.equal(one.input_ids, other.input_ids)


def test_a_step_larger_than_many_epochs() -> None:
    stream = stream_of([[20, 9], [30], [8, 8]])
    per_epoch = [stream.epoch_rows(epoch).num_rows for epoch in range(300)]
    assert max(per_epoch) < 10
    step = stream.step(Cursor(0, 0, 0), 200)
    epochs = [int(name.split(":")[0]) for name in step.sample_names()]
    assert epochs == sorted(epochs)
    assert sum(per_epoch[: step.next_cursor.epoch]) + step.next_cursor.row == 200
    assert all_rows(step).input_ids.shape == (200, 64)


def test_epoch_rows_end_with_the_epoch() -> None:
    stream = stream_of()
    whole = stream.epoch_rows(1)
    assert whole.next_cursor == Cursor(2, 0, 0)
    assert {name.split(":")[0] for name in whole.sample_names()} == {"1"}
    limited = stream.epoch_rows(1, 30)
    assert limited.num_rows == 30
    assert limited.sample_names() == whole.sample_names()[: limited.num_samples]
    assert stream.epoch_rows(1, 10_000).num_rows == whole.num_rows
    assert limited.next_cursor == stream.step(Cursor(1, 0, 0), 30).next_cursor


@pytest.mark.parametrize("whole_words", [False, True])
def test_a_store_on_disk_gives_the_rows_of_the_same_documents_in_memory(
    tmp_path: Path, whole_words: bool
) -> None:
    store = write_store(tmp_path / "store", DOCUMENTS)
    options = SamplingOptions(64, "nsp", packing=True, window_blocks=3, whole_words=whole_words)
    special = (store.special_ids, store.all_special_ids, store.vocab_size)
    stored = RowStream(store.split("train"), *special, options, 5)
    in_memory = RowStream(FakeSplit(DOCUMENTS, 300), SPECIAL_IDS, ALL_SPECIAL_IDS, VOCAB_SIZE, options, 5)
    rows, expected = (all_rows(stream.step(Cursor(0, 1, 2), 50)) for stream in (stored, in_memory))
    assert torch.equal(rows.input_ids, expected.input_ids)
    assert torch.equal(rows.masked_positions, expected.masked_positions)
    plain = all_rows(stream_of().step(Cursor(0, 1, 2), 50))
    assert torch.equal(plain.masked_positions, rows.masked_positions) != whole_words


def test_two_windows_are_kept() -> None:
    stream = stream_of()
    first = stream.window(0, 0)
    stream.window(0, 1)
    assert stream.window(0, 0) is first
    stream.window(0, 2)
    assert stream.window(0, 0) is not first


def test_planning_reads_no_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    class LengthsOnly:
        def __init__(self, block: object) -> None:
            self.sentence_lengths = block.sentence_lengths  # type: ignore[attr-defined]
            self.document_lengths = block.document_lengths  # type: ignore[attr-defined]

    block = FakeSplit.block
    monkeypatch.setattr(FakeSplit, "block", lambda split, index: LengthsOnly(block(split, index)))
    rows = stream_of().step(Cursor(0, 0, 0), 50)
    assert rows.num_masked > 50
    with pytest.raises(AttributeError, match="tokens"):
        rows.batch(0, 1)


def test_windows_without_rows_are_passed_over() -> None:
    """Documents of a single token, each alone in its window, have no pair."""
    documents = [[1], [200, 150], [1], [1], [200, 150], [1], [1]]
    options = SamplingOptions(64, "nsp", packing=True, window_blocks=1)
    split = FakeSplit(documents, block_tokens=1)
    stream = RowStream(split, SPECIAL_IDS, ALL_SPECIAL_IDS, VOCAB_SIZE, options, 1)
    whole = stream.step(Cursor(0, 0, 0), 60)
    steps = [stream.step(Cursor(0, 0, 0), 3)]
    while len(steps) < 20:
        steps.append(stream.step(steps[-1].next_cursor, 3))
    assert [*chain(*(step.sample_names() for step in steps))] == whole.sample_names()
    assert {len(stream.epoch_rows(epoch).pieces) for epoch in range(5)} == {2}


@pytest.mark.parametrize(
    ("documents", "objective", "message"),
    [
        ([], "mlm", "has no text"),
        ([[20, 20]], "nsp", "data.objective to sop or mlm"),
    ],
)
def test_a_split_that_cannot_serve_the_objective(documents: Documents, objective: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        stream_of(documents, objective)


def test_an_epoch_without_a_row_is_an_error_instead_of_an_endless_search() -> None:
    """Two documents of a single token, each in a window of its own."""
    options = SamplingOptions(64, "nsp", packing=True, window_blocks=1)
    stream = RowStream(FakeSplit([[1], [1]], 1), SPECIAL_IDS, ALL_SPECIAL_IDS, VOCAB_SIZE, options, 1)
    with pytest.raises(DataError, match="makes no nsp sample"):
        stream.step(Cursor(0, 0, 0), 1)
    with pytest.raises(DataError, match="makes no nsp sample"):
        stream.epoch_rows(0)


@pytest.mark.parametrize("cursor", [Cursor(0, 99, 0), Cursor(0, 0, 10_000)])
def test_a_cursor_of_another_store_is_refused(cursor: Cursor) -> None:
    with pytest.raises(DataError, match="outside the train split"):
        stream_of().step(cursor, 1)


@pytest.mark.parametrize(("first_row", "num_rows"), [(-1, 2), (0, 0), (5, 6)])
def test_rows_outside_the_step_are_refused(first_row: int, num_rows: int) -> None:
    with pytest.raises(ValueError, match="do not lie within 10 rows"):
        stream_of().step(Cursor(0, 0, 0), 10).batch(first_row, num_rows)
