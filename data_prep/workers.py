"""Worker processes that give back results in the order of their tasks, with few tasks in flight.

1. each worker has a pipe of its own; a thread in it takes the next task while the last is worked on, so that
   neither side waits for the other to read;
2. a worker has at most two tasks, and all together run only so far ahead of the result that is due;
3. a worker that dies is noticed at once and named, with the task it had.

`concurrent.futures` says only that some process died, not which, nor what it was doing. Processes are spawned,
not forked: a fork would copy the threads' locks of the tokenizers library in whatever state they are in.
"""

import gc
import os
import queue
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Self, TypeVar

from pretrain.errors import PretrainError
from pretrain.signals import STOP_SIGNALS

_TASKS_PER_WORKER = 2
_RESULTS_AHEAD_PER_WORKER = 4
_SECONDS_TO_END = 5.0
_SECONDS_OF_A_TURN = 1e-4

Task = TypeVar("Task")
Result = TypeVar("Result")


class WorkerDied(PretrainError):
    """A worker process was killed: by the system for want of memory, as a rule."""


@dataclass(frozen=True)
class _Worker:
    """One process; `tasks` are the numbers of those it has, oldest first."""

    process: BaseProcess
    pipe: Connection
    tasks: deque[int] = field(default_factory=deque)


@dataclass(frozen=True)
class _Failure:
    """What a task raised, and where."""

    error: BaseException
    trace: str


def available_cpus() -> int:
    """CPUs this process may use (a job's share of a node, where the system says so)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Workers:
    """A pool for the length of a `with` block; its processes start at once."""

    def __init__(self, count: int) -> None:
        context = get_context("spawn")
        self._workers: list[_Worker] = []
        try:
            for _ in range(count):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs,), daemon=True)
                process.start()
                theirs.close()
                self._workers.append(_Worker(process, ours))
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.pipe.close()  # the end of its tasks
        for worker in self._workers:
            worker.process.join(_SECONDS_TO_END)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    @property
    def process_ids(self) -> list[int]:
        return [worker.process.pid or 0 for worker in self._workers]

    def map_in_order(
        self,
        function: Callable[[Task], Result],
        tasks: Iterable[Task],
        name: Callable[[Task], str] = repr,
    ) -> Iterator[Result]:
        """`function` (importable by name) of each task, in order, taking tasks only as results are taken.

        What a task raises is raised here; `name` says what a worker that died had been doing. One iteration at a
        time; of one that was given up, the next waits for what is still being done.
        """
        self._discard_leftovers()
        numbered = enumerate(tasks)
        results: dict[int, Any] = {}
        names: dict[int, str] = {}
        due, is_exhausted = 0, False
        while True:
            while not is_exhausted and len(results) + len(names) < self._limit:
                worker = min(self._workers, key=lambda each: len(each.tasks))
                if len(worker.tasks) >= _TASKS_PER_WORKER:
                    break
                number, task = next(numbered, (None, None))
                if number is None:
                    is_exhausted = True
                    break
                names[number] = name(task)  # type: ignore[arg-type]
                worker.tasks.append(number)
                self._send(worker, (function, task), names)
            if due in results:
                yield results.pop(due)
                due += 1
            elif not names:
                return
            else:
                self._receive(results, names)

    @property
    def _limit(self) -> int:
        return len(self._workers) * _RESULTS_AHEAD_PER_WORKER

    def _discard_leftovers(self) -> None:
        for worker in self._workers:
            while worker.tasks:
                try:
                    worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    raise _died(worker, {}) from None
                worker.tasks.popleft()

    def _send(self, worker: _Worker, message: tuple[Any, Any], names: dict[int, str]) -> None:
        try:
            worker.pipe.send(message)
        except (BrokenPipeError, ConnectionResetError):
            raise _died(worker, names) from None

    def _receive(self, results: dict[int, Any], names: dict[int, str]) -> None:
        """At least one result, from whichever worker has it."""
        by_pipe = {worker.pipe: worker for worker in self._workers if worker.tasks}
        for pipe in wait(list(by_pipe)):
            worker = by_pipe[pipe]  # type: ignore[index]
            try:
                outcome = worker.pipe.recv()
            except (EOFError, ConnectionResetError):
                raise _died(worker, names) from None
            number = worker.tasks.popleft()
            del names[number]
            if isinstance(outcome, _Failure):
                raise outcome.error from (
                    None if isinstance(outcome.error, PretrainError) else RuntimeError(outcome.trace)
                )
            results[number] = outcome


def _died(worker: _Worker, names: dict[int, str]) -> WorkerDied:
    worker.process.join(_SECONDS_TO_END)
    code = worker.process.exitcode
    how = (
        f"was killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended ({code})"
    )
    why = "; the system does that when memory runs out" if code == -signal.SIGKILL else ""
    doing = f" while it worked on {names[worker.tasks[0]]}" if worker.tasks and names else ""
    return WorkerDied(
        f"Worker process {worker.process.pid} {how}{doing}{why}. "
        "Start the same command again with --resume, and with fewer --workers if memory was short."
    )


def _work(pipe: Connection) -> None:
    """The life of a worker process: until its parent closes the pipe, or is gone."""
    # Ctrl-C reaches the whole process group, and so do a scheduler's signals; the main process alone answers them.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # One thread in each worker: the pool is the parallelism.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # Nothing a worker makes has reference cycles, and collecting costs a third of the time of parsing
    # syntax trees.
    gc.disable()
    # The thread that takes tasks gets its turn at once: meanwhile the main process waits to be rid of one.
    sys.setswitchinterval(_SECONDS_OF_A_TURN)
    tasks: queue.SimpleQueue[tuple[Callable[[Any], Any], Any]] = queue.SimpleQueue()
    threading.Thread(target=_take, args=(pipe, tasks), daemon=True).start()
    while True:
        function, task = tasks.get()
        try:
            outcome = function(task)
        except BaseException as error:
            outcome = _Failure(error, traceback.format_exc())
        _give(pipe, outcome)


def _take(pipe: Connection, tasks: "queue.SimpleQueue[tuple[Callable[[Any], Any], Any]]") -> None:
    while True:
        try:
            tasks.put(pipe.recv())
        except (EOFError, OSError):
            os._exit(0)  # the parent has no more tasks, or was killed: nobody waits for what is being done
        except BaseException:  # a task that cannot be unpickled; the parent sees a worker that ended
            traceback.print_exc()
            os._exit(1)


def _give(pipe: Connection, outcome: Any) -> None:
    try:
        pipe.send(outcome)
    except (BrokenPipeError, ConnectionResetError):
        os._exit(0)
    except Exception:  # something that cannot be pickled
        pipe.send(_Failure(RuntimeError(f"a result cannot be sent: {outcome!r}"), traceback.format_exc()))
