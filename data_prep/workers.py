"""Worker processes that give back results in the order of their tasks, with few tasks in flight.

Processes are spawned, not forked: a fork would copy the threads' locks of the tokenizers library in
whatever state they are in.
"""

import gc
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Self, TypeVar

from pretrain.errors import PretrainError

_TASKS_AHEAD_PER_WORKER = 3

Task = TypeVar("Task")
Result = TypeVar("Result")


def available_cpus() -> int:
    """CPUs this process may use (a job's share of a node, where the system says so)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Workers:
    """A pool for the length of a `with` block."""

    def __init__(self, count: int) -> None:
        self._in_flight = count * _TASKS_AHEAD_PER_WORKER
        self._pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_start_worker)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def map_in_order(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """`function` (importable by name) of each task, in order, taking tasks only as results are taken."""
        pending: deque[Future[Result]] = deque()
        try:
            for task in tasks:
                pending.append(self._pool.submit(function, task))
                if len(pending) >= self._in_flight:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool:
            raise PretrainError(
                "A worker process died, perhaps for want of memory; start again with fewer --workers."
            ) from None
        finally:
            for future in pending:
                future.cancel()


def _start_worker() -> None:
    # Ctrl-C reaches the whole process group; the main process alone answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # One thread in each worker: the pool is the parallelism.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # Nothing a worker makes has reference cycles, and collecting costs a third of the time of parsing
    # syntax trees.
    gc.disable()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed main process must not leave its workers behind: their task queue would never tell them."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
