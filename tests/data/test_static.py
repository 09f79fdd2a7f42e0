"""Static samples: the first epochs again and again, each time in another order."""

from collections import Counter

import pytest

from pretrain.data.options import SamplingOptions
from pretrain.data.order import Cursor, source_of
from pretrain.data.stream import RowStream
from tests.data.fakes import ALL_SPECIAL_IDS, SPECIAL_IDS, VOCAB_SIZE, FakeSplit, random_documents

Row = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def stream_of(static_epochs: int, objective: str = "nsp", block_tokens: int = 300) -> RowStream:
    options = SamplingOptions(64, objective, packing=True, window_blocks=3, static_epochs=static_epochs)  # type: ignore[arg-type]
    split = FakeSplit(random_documents(60, sentences=4.0, tokens=9.0), block_tokens)
    return RowStream(split, SPECIAL_IDS, ALL_SPECIAL_IDS, VOCAB_SIZE, options, seed=5)


def rows_of(stream: RowStream, epoch: int) -> list[Row]:
    """Every row of an epoch: its masked inputs, the places and the labels of what is to be predicted."""
    rows = stream.epoch_rows(epoch)
    batches = [rows.batch(row, 1) for row in range(rows.num_rows)]
    return [
        (
            tuple(batch.input_ids.flatten().tolist()),
            tuple(batch.masked_positions.tolist()),
            tuple(batch.masked_labels.tolist() + batch.nsp_labels.tolist()),
        )
        for batch in batches
    ]


@pytest.mark.parametrize("objective", ["nsp", "sop", "mlm"])
def test_static_epochs_repeat_in_another_order(objective: str) -> None:
    stream = stream_of(2, objective)
    epochs = [rows_of(stream, epoch) for epoch in range(6)]
    for epoch in range(2, 6):
        assert Counter(epochs[epoch]) == Counter(epochs[epoch % 2])
        assert epochs[epoch] != epochs[epoch - 2]
    assert not set(epochs[0]) & set(epochs[1])
    # Not only the rows of a window change places.
    order = [
        [stream.window(epoch, w).source[1] for w in range(stream.windows_per_epoch)] for epoch in range(9)
    ]
    assert len(set(map(tuple, order))) > 3
    assert all(sorted(windows) == order[0] for windows in order)


def test_the_first_epochs_are_those_of_the_dynamic_stream() -> None:
    static, dynamic = stream_of(3), stream_of(0)
    for epoch in range(3):
        assert rows_of(static, epoch) == rows_of(dynamic, epoch)
    assert Counter(rows_of(static, 3)) != Counter(rows_of(dynamic, 3))


def test_a_store_of_one_window_has_its_rows_in_another_order() -> None:
    stream = stream_of(1, block_tokens=10**6)
    first, second = rows_of(stream, 0), rows_of(stream, 1)
    assert first != second
    assert Counter(first) == Counter(second)


def test_a_repeated_sample_has_the_name_that_it_had() -> None:
    stream = stream_of(2)
    assert sorted(stream.epoch_rows(5).sample_names()) == sorted(stream.epoch_rows(1).sample_names())


def test_seeking_in_a_later_epoch_is_having_streamed_there() -> None:
    stream, cursor = stream_of(2), Cursor(0, 0, 0)
    while cursor.epoch < 4:
        step = stream.step(cursor, 17)
        assert stream_of(2).step(cursor, 17).sample_names() == step.sample_names()
        cursor = step.next_cursor


def test_dynamic_windows_are_their_own_source() -> None:
    assert source_of(7, 3, 10, static_epochs=0, seed=1) == (7, 3)
    assert source_of(1, 3, 10, static_epochs=2, seed=1) == (1, 3)
    assert source_of(7, 3, 10, static_epochs=2, seed=1)[0] == 1
