"""The loader: the same rows however they are cut, and a thread that ends, also with an error."""

import threading
from itertools import islice
from threading import current_thread

import pytest
import torch

from pretrain.data.batches import Batch
from pretrain.data.loader import Loader, StepBatches
from pretrain.data.options import SamplingOptions
from pretrain.data.order import Cursor
from pretrain.data.stream import RowStream, StepRows
from pretrain.errors import DataError, UsageError
from tests.data.fakes import ALL_SPECIAL_IDS, SPECIAL_IDS, VOCAB_SIZE, FakeSplit, random_documents

GLOBAL_BATCH = 16
START = Cursor(0, 1, 5)


def stream_of() -> RowStream:
    options = SamplingOptions(64, "nsp", packing=True, window_blocks=3)
    split = FakeSplit(random_documents(60, sentences=4.0, tokens=9.0), block_tokens=300)
    return RowStream(split, SPECIAL_IDS, ALL_SPECIAL_IDS, VOCAB_SIZE, options, seed=5)


def steps_of(micro_batch: int, rank: int, world: int, number: int = 6) -> list[StepBatches]:
    with Loader(stream_of(), START, GLOBAL_BATCH, micro_batch, rank, world) as loader:
        return list(islice(loader, number))


@pytest.mark.parametrize(("world", "micro_batch"), [(1, 8), (2, 4), (4, 2), (1, 16), (8, 2)])
def test_rows_of_a_step_do_not_depend_on_the_cut(world: int, micro_batch: int) -> None:
    ranks = [steps_of(micro_batch, rank, world) for rank in range(world)]
    stream, cursor = stream_of(), START
    for number in range(6):
        shares = [steps[number] for steps in ranks]
        whole = stream.step(cursor, GLOBAL_BATCH)
        expected = whole.batch(0, GLOBAL_BATCH)
        batches = [share.micro_batches[g] for g in range(len(shares[0].micro_batches)) for share in shares]
        assert torch.equal(torch.cat([batch.input_ids for batch in batches]), expected.input_ids)
        assert torch.equal(torch.cat([batch.sample_ids for batch in batches]), expected.sample_ids)
        labels = [batch.masked_labels[: batch.num_masked] for batch in batches]
        assert torch.equal(torch.cat(labels), expected.masked_labels[: expected.num_masked])
        for share in shares:
            assert (share.cursor, share.next_cursor) == (cursor, whole.next_cursor)
            assert share.num_attended == whole.num_attended
            for name in ("num_masked", "num_pairs", "num_samples", "num_tokens"):
                assert getattr(share, name) == getattr(expected, name)
        cursor = whole.next_cursor


def test_a_global_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(UsageError, match="multiple of 6"):
        Loader(stream_of(), START, GLOBAL_BATCH, micro_batch=3, rank=0, world=2)


def test_steps_of_several_sizes_follow_one_another_in_the_stream() -> None:
    sizes = (4, 4, 8, 16)
    with Loader(stream_of(), START, iter(sizes), micro_batch=2, rank=1, world=2) as loader:
        steps = list(loader)  # as many as there are sizes
    stream, cursor = stream_of(), START
    for step, size in zip(steps, sizes, strict=True):
        whole = stream.step(cursor, size)
        own = [whole.batch(first, 2).input_ids for first in range(2, size, 4)]
        assert torch.equal(torch.cat([each.input_ids for each in step.micro_batches]), torch.cat(own))
        assert (step.cursor, step.next_cursor) == (cursor, whole.next_cursor)
        assert (step.num_rows, step.num_masked) == (size, whole.num_masked)
        cursor = whole.next_cursor


def test_closing_ends_the_thread_and_the_iteration() -> None:
    before = threading.active_count()
    loader = Loader(stream_of(), START, GLOBAL_BATCH, 8, 0, 1)
    next(loader)
    assert threading.active_count() == before + 1
    loader.close()
    assert threading.active_count() == before
    assert list(loader) == []
    loader.close()


def test_an_abandoned_loader_makes_no_more_than_its_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    made, third, fourth = [], threading.Event(), threading.Event()
    step = RowStream.step

    def counted(stream: RowStream, cursor: Cursor, num_rows: int) -> StepRows:
        made.append(cursor)
        if len(made) >= 3:
            (third if len(made) == 3 else fourth).set()
        return step(stream, cursor, num_rows)

    monkeypatch.setattr(RowStream, "step", counted)
    with Loader(stream_of(), START, GLOBAL_BATCH, 8, 0, 1, depth=2) as loader:
        next(loader)
        assert third.wait(10)
        assert not fourth.wait(0.3)


def test_an_error_reaches_the_consumer_after_the_steps_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    step = RowStream.step

    def failing(stream: RowStream, cursor: Cursor, num_rows: int) -> StepRows:
        if cursor != START:
            raise DataError("the shard is gone")
        return step(stream, cursor, num_rows)

    monkeypatch.setattr(RowStream, "step", failing)
    with Loader(stream_of(), START, GLOBAL_BATCH, 8, 0, 1) as loader:
        assert next(loader).cursor == START
        for _ in range(2):
            with pytest.raises(DataError, match="the shard is gone"):
                next(loader)


def test_a_consumer_that_waits_is_woken_by_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closed from another thread while the first step is being made."""
    making, go_on = threading.Event(), threading.Event()
    step = RowStream.step

    def slow(stream: RowStream, cursor: Cursor, num_rows: int) -> StepRows:
        making.set()
        assert go_on.wait(10)
        return step(stream, cursor, num_rows)

    monkeypatch.setattr(RowStream, "step", slow)
    loader = Loader(stream_of(), START, GLOBAL_BATCH, 8, 0, 1)
    received: list[StepBatches] = []
    consumer = threading.Thread(target=lambda: received.extend(loader))
    consumer.start()
    assert making.wait(10)
    closer = threading.Thread(target=loader.close)
    closer.start()
    go_on.set()
    consumer.join(10)
    closer.join(10)
    assert not consumer.is_alive() and not closer.is_alive()


def test_batches_for_a_gpu_are_pinned_by_a_thread_of_that_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA makes pinned memory in the context of the thread's GPU, which is the first one unless it is said."""
    pinned: list[Batch] = []
    chosen: list[tuple[str, torch.device]] = []

    def remembered(batch: Batch) -> Batch:
        pinned.append(batch)
        return batch

    monkeypatch.setattr(Batch, "pinned", remembered)
    monkeypatch.setattr(torch.cuda, "set_device", lambda gpu: chosen.append((current_thread().name, gpu)))
    gpu = torch.device("cuda", 3)
    with Loader(stream_of(), START, GLOBAL_BATCH, 8, 0, 1, device=gpu) as loader:
        batches = next(loader).micro_batches
    assert chosen == [("batch loader", gpu)]
    assert all(mine is theirs for mine, theirs in zip(batches, pinned, strict=False))
    with Loader(stream_of(), START, GLOBAL_BATCH, 8, 0, 1, device=torch.device("cpu")) as loader:
        count = len(pinned)
        next(loader)
    assert len(chosen) == 1 and len(pinned) == count
