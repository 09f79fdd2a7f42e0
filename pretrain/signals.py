"""Signals that ask a run to stop: noted here, agreed on by all ranks at the next step, obeyed after saving."""

import os
import signal
from time import monotonic
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
# One request reaches a rank several times: a terminal, a launcher and a scheduler each pass it on.
SAME_REQUEST_SECONDS = 5.0


class StopRequest:
    """Remembers the first stop signal; one that comes later than its echoes ends the process at once."""

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._noted_at = 0.0

    def listen(self) -> None:
        """Installs the handlers; only the main thread may."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal_name is None:
            self.signal_name, self._noted_at = signal.Signals(number).name, monotonic()
        elif monotonic() - self._noted_at > SAME_REQUEST_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
