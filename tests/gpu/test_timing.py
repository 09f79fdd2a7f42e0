"""The probe of a GPU: read an interval later, it says how long a fixed piece of work took."""

import pytest
import torch

from pretrain.timing import Timing
from pretrain.timing.busy import CudaProbe

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("one_rank")]


def test_a_probe_is_read_one_call_later() -> None:
    """2 * 4096^3 FLOP at between 10 and 10,000 TFLOP/s."""
    probe = CudaProbe(torch.device("cuda"))
    assert probe.seconds() is None
    torch.cuda.synchronize()
    found = probe.seconds()
    assert found is not None and 1.4e-5 < found < 1.4e-2


def test_own_seconds_are_known_from_the_second_interval_on() -> None:
    timing = Timing(1, ["here"], torch.device("cuda"))
    records = []
    for step in (1, 2):
        timing.next_of(iter([step]))
        torch.cuda.synchronize()
        timing.step_ended()
        records.append(timing.of_ranks(step))
    assert list(records[0].own_seconds) == [None]
    assert records[1].own_seconds[0] == pytest.approx(records[1].seconds, rel=0.01)
    assert records[1].memory["max_allocated_bytes"] == records[1].peak_bytes[0] > 0
