"""The first stop signal is noted, its echoes are not counted, a later one ends the process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.signals import STOP_SIGNALS, StopRequest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
import os, signal, sys, time
from pretrain import signals
signals.SAME_REQUEST_SECONDS = 0.2
stop = signals.StopRequest()
stop.listen()
number = signal.Signals[sys.argv[1]]
os.kill(os.getpid(), number)
os.kill(os.getpid(), number)
print(stop.signal_name, flush=True)
time.sleep(0.3)
os.kill(os.getpid(), number)
time.sleep(5)
print("still here", flush=True)
"""


def test_nothing_is_noted_before_a_signal() -> None:
    assert StopRequest().signal_name is None


@pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda number: number.name)
def test_an_echo_is_ignored_and_a_later_signal_ends_the_process(number: signal.Signals) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT, number.name]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert result.stdout.split() == [number.name]
    assert result.returncode == -number
