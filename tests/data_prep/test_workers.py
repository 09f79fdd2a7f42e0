"""The pool: order, bounded look-ahead, errors of tasks, and workers that die."""

import os
import signal
import time
from collections.abc import Iterator

import psutil
import pytest

from data_prep.position import Position
from data_prep.sources.chunks import Chunk
from data_prep.task import Task
from data_prep.workers import WorkerDied, Workers
from pretrain.errors import DataError, PretrainError


def slow_when_even(number: int) -> tuple[int, int]:
    time.sleep(0.02 if number % 2 == 0 else 0)
    return number, os.getpid()


def big(size: int) -> bytes:
    return bytes(size)


def length(content: bytes) -> int:
    return len(content)


def fail(number: int) -> int:
    if number == 3:
        raise DataError("text.txt:7 is bad")
    if number == 5:
        raise KeyError("a mistake of ours")
    return number


def die(number: int) -> int:
    if number == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def linger(seconds: int) -> None:
    time.sleep(seconds)


def test_results_come_in_order_from_all_workers() -> None:
    with Workers(3) as workers:
        results = list(workers.map_in_order(slow_when_even, range(40)))
    assert [number for number, _ in results] == list(range(40))
    assert len({process for _, process in results}) == 3


def test_a_pool_serves_one_map_after_another() -> None:
    with Workers(2) as workers:
        assert list(workers.map_in_order(big, [1, 2])) == [b"\0", b"\0\0"]
        assert list(workers.map_in_order(length, [b"abc"])) == [3]
        assert list(workers.map_in_order(length, [])) == []


def test_a_map_that_is_given_up_leaves_nothing_to_the_next() -> None:
    with Workers(2) as workers:
        for _ in range(3):
            given_up = workers.map_in_order(slow_when_even, range(100, 200))
            assert next(given_up)[0] == 100
            assert list(workers.map_in_order(length, [b"a", b"bc"])) == [1, 2]


def test_tasks_are_taken_only_so_far_ahead() -> None:
    taken = 0

    def tasks() -> Iterator[int]:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield number

    with Workers(2) as workers:
        results = workers.map_in_order(slow_when_even, tasks())
        for _ in range(10):
            next(results)
        time.sleep(0.2)
        next(results)
    assert 11 <= taken <= 11 + 2 * 4


def test_neither_side_waits_for_the_other_with_large_messages() -> None:
    with Workers(2) as workers:
        assert list(workers.map_in_order(length, [bytes(3 << 20)] * 12)) == [3 << 20] * 12
        assert [len(result) for result in workers.map_in_order(big, [3 << 20] * 12)] == [3 << 20] * 12


def test_what_a_task_raises_is_raised_here() -> None:
    with Workers(2) as workers, pytest.raises(DataError, match=r"text\.txt:7 is bad"):
        list(workers.map_in_order(fail, [1, 2, 3, 4]))
    with Workers(2) as workers, pytest.raises(KeyError) as caught:
        list(workers.map_in_order(fail, [1, 5]))
    assert "in fail" in str(caught.value.__cause__)  # the trace of the worker


def test_a_killed_worker_is_named_with_what_it_held() -> None:
    with Workers(2) as workers:
        with pytest.raises(
            WorkerDied, match=r"was killed by SIGKILL while it worked on task 4; .* --resume"
        ) as caught:
            list(workers.map_in_order(die, range(9), name=lambda number: f"task {number}"))
        assert any(str(process) in str(caught.value) for process in workers.process_ids)
    assert isinstance(caught.value, PretrainError)
    with Workers(1) as workers, pytest.raises(WorkerDied, match=r"ended \(3\)"):
        list(workers.map_in_order(os._exit, [3, 3, 3]))


def test_a_signal_to_the_whole_group_is_for_the_main_process() -> None:
    with Workers(1) as workers:
        assert list(workers.map_in_order(length, [b"a"])) == [1]
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            os.kill(workers.process_ids[0], number)
        assert list(workers.map_in_order(length, [b"abc"])) == [3]


def test_a_task_is_named_by_byte_or_row() -> None:
    position = Position(segment=0, chunk=0)
    text = Chunk("a.txt", "text", 1_048_576, b"x", 1)
    rows = Chunk("a.csv", "rows", 1_000, (b"x",), 1)
    assert str(Task(position, text)) == "a.txt (from byte 1,048,576 on)"
    assert str(Task(position, rows)) == "a.csv (from row 1,001 on)"


def test_a_busy_worker_does_not_outlive_the_pool() -> None:
    began = time.monotonic()
    with Workers(2) as workers:
        processes = [psutil.Process(number) for number in workers.process_ids]
        results = workers.map_in_order(linger, [0, 600])
        next(results)  # the second task is with a worker
    assert not any(process.is_running() for process in processes)
    assert time.monotonic() - began < 10
