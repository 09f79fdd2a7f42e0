"""Nothing may hang: an action in a thread of its own, and the seconds that it may take.

A file system or a peer that gives no answer holds a system call for ever, which nothing in the process can end. So the
thread is left behind, and the process ends without waiting for it.
"""

from collections.abc import Callable
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


class Late(Exception):
    """It has not ended in its time, and may still go on."""


def within(seconds: float, action: Callable[[], T]) -> T:
    """What `action` returns or raises; raises Late where it takes longer."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(action())
        except BaseException as error:
            errors.append(error)

    thread = Thread(target=run, name="doctor", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise Late
    return results[0]
