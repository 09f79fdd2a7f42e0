"""What ranks that have not joined yet say of an error that all of them have met."""

import sys
from time import monotonic

import pytest

from pretrain.watch.watchdog import UNJOINED_SECONDS
from tests.worlds import run_command

SAYING = """
import sys
from pretrain.comm import Placement
from pretrain.errors import UsageError
from pretrain.signals import StopRequest
from pretrain.watch import Watch
stop = StopRequest()
stop.signal_name = sys.argv[2] or None
sys.exit(Watch(Placement(int(sys.argv[1]), 0, 2, 2), stop).say(UsageError("it is wrong.")))
"""


@pytest.mark.parametrize(
    ("rank", "signal", "said"), [("0", "SIGTERM", "error: it is wrong.\n"), ("1", "SIGTERM", "")]
)
def test_a_rank_that_was_told_to_end_while_it_was_imported(rank: str, signal: str, said: str) -> None:
    """As rank 1 is by its launcher, when rank 0 was faster and has said it."""
    began = monotonic()
    ended = run_command([sys.executable, "-c", SAYING, rank, signal])
    assert (ended.returncode, ended.stderr) == (2, said)
    assert monotonic() - began < UNJOINED_SECONDS
