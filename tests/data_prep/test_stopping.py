"""Stop signals: raised where the main thread is, held back where half of something would be left."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from data_prep.stopping import Stopped, StopSignals, interruptible
from pretrain.signals import STOP_SIGNALS

SECOND_SIGNAL = """
import os, signal, sys, time
from data_prep.stopping import Stopped, StopSignals
stop = StopSignals()
stop.listen()
for pause in (0, float(sys.argv[1])):
    time.sleep(pause)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
    except Stopped:
        pass
sys.exit(75)
"""


@pytest.fixture
def stop() -> Iterator[StopSignals]:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    signals = StopSignals()
    signals.listen()
    yield signals
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_ends_waiting_at_once(stop: StopSignals, number: int) -> None:
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), number))
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    began = time.monotonic()
    with pytest.raises(Stopped, match=signal.Signals(number).name):
        interruptible(lambda: time.sleep(20))
    assert time.monotonic() - began < 5
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def test_one_that_is_held_back_is_raised_by_the_next_check(stop: StopSignals) -> None:
    steps = []
    with stop.held_back():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
        steps.append("went on")
    with pytest.raises(Stopped, match="SIGTERM"):
        stop.check()
    assert steps == ["went on"]


def test_no_signal_no_stop() -> None:
    stop = StopSignals()
    with stop.held_back():
        stop.check()


@pytest.mark.parametrize(("pause", "code"), [("0", 75), ("1.2", -signal.SIGTERM)])
def test_an_echo_is_one_request_and_a_second_one_ends_the_process(pause: str, code: int) -> None:
    result = subprocess.run([sys.executable, "-c", SECOND_SIGNAL, pause], timeout=60, check=False)
    assert result.returncode == code


def test_what_is_interruptible_returns_and_raises() -> None:
    assert interruptible(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 // 0)
