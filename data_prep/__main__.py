"""`python -m data_prep`.

The command line is imported only where it runs: worker processes import this module again. It takes seconds, and a
signal may come meanwhile.
"""

import contextlib
import os
import sys

from data_prep.stopping import Stopped, StopSignals
from pretrain import garbage
from pretrain.errors import StoppedBySignal

if __name__ == "__main__":
    stop = StopSignals()
    stop.listen()
    try:
        garbage.pause()
        from data_prep.cli import main

        garbage.spare()
        code = main(stop=stop)
    except Stopped as signal:
        print(f"error: stopped by {signal} before anything began.", file=sys.stderr)
        code = StoppedBySignal.exit_code
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    # Taking the interpreter down waits for a training that was given up, and answers a signal that comes late by
    # a code that says nothing was done.
    os._exit(code)
