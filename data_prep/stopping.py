"""Signals that ask a command to stop.

1. after `StopSignals.listen` the first signal raises `Stopped` in the main thread, wherever it waits or works;
2. within `held_back`, where half of something would be left, it is remembered only, and `check` raises;
3. a second one ends the process at once, as if nobody listened. What is on the disk stands a kill.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType
from typing import TypeVar

from pretrain.signals import STOP_SIGNALS

# A terminal, a launcher and a scheduler each pass the same request on; who asks again by hand takes longer.
SAME_REQUEST_SECONDS = 1.0

Result = TypeVar("Result")


class Stopped(KeyboardInterrupt):
    """A signal asks to stop. What lets Ctrl-C through lets this through."""


class StopSignals:
    """The stop signals of one command; nothing is heard before `listen`."""

    def __init__(self) -> None:
        self._name: str | None = None
        self._noted_at = 0.0
        self._is_held_back = False

    def listen(self) -> None:
        """Installs the handlers; only the main thread may."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """A signal waits for the next `check`."""
        self._is_held_back = True
        try:
            yield
        finally:
            self._is_held_back = False

    def check(self) -> None:
        """Raises Stopped if a signal has come."""
        if self._name is not None:
            raise Stopped(self._name)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._name is None:
            self._name, self._noted_at = signal.Signals(number).name, monotonic()
            if not self._is_held_back:
                self.check()
        elif monotonic() - self._noted_at > SAME_REQUEST_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def interruptible(function: Callable[[], Result]) -> Result:
    """What `function` returns or raises, from a thread of its own: Python answers no signal while the main thread is
    inside a library's call, and training a tokenizer is one for minutes. Given up, it ends with the process."""
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
