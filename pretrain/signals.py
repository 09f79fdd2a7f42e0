"""Signals that ask a run to stop: noted here, agreed on by all ranks at the next step, obeyed after saving.

Python answers a signal in its main thread between two instructions, which may be minutes away while that thread waits
for another rank. So a thread listens too, by the file descriptor that the interpreter writes signals to.
"""

import ctypes
import os
import signal
from collections.abc import Callable
from threading import Thread
from time import monotonic
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
# One request reaches a rank several times: a terminal, a launcher and a scheduler each pass it on.
SAME_REQUEST_SECONDS = 5.0
_DEFAULT_ACTION = 0  # SIG_DFL


class StopRequest:
    """Remembers the first stop signal; one that comes later than its echoes ends the process at once."""

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._told: list[Callable[[str], None]] = []

    def listen(self) -> None:
        """Installs the handlers; only the main thread may."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)
        reads, writes = os.pipe()
        os.set_blocking(writes, False)
        signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
        Thread(target=self._hear, args=(reads,), name="signals", daemon=True).start()

    def end_listening(self, code: int | None) -> None:
        """The process is about to end by itself. A signal ends it at once by that exit code, which a scheduler goes by:
        a launcher sends one to all when one has ended. None: no signal hurries it. Only the main thread may."""
        signal.set_wakeup_fd(-1)
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN if code is None else lambda *_: os._exit(code))

    def tell(self, action: Callable[[str], None]) -> None:
        """`action` gets the name of the first signal, in a thread of its own, at once if there was one."""
        self._told.append(action)
        if self.signal_name is not None:
            Thread(target=action, args=(self.signal_name,), daemon=True).start()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal_name = self.signal_name or signal.Signals(number).name

    def _hear(self, reads: int) -> None:
        first_at: float | None = None
        while content := os.read(reads, 1):
            number = content[0]
            if number not in STOP_SIGNALS:
                continue
            if first_at is None:
                first_at = monotonic()
                self.signal_name = self.signal_name or signal.Signals(number).name
                for action in self._told:
                    Thread(target=action, args=(self.signal_name,), daemon=True).start()
            elif monotonic() - first_at > SAME_REQUEST_SECONDS:
                # Only the main thread may take a handler away by Python's own means, and it may be far from here.
                ctypes.CDLL(None).signal(number, _DEFAULT_ACTION)
                os.kill(os.getpid(), number)
