"""What takes too long, and what fails."""

from threading import Event

import pytest

from pretrain.doctor.limits import Late, within


def test_what_ends_in_time_is_returned_or_raised() -> None:
    assert within(5.0, lambda: None) is None
    with pytest.raises(ZeroDivisionError):
        within(5.0, lambda: 1 // 0)


def test_what_hangs_is_left_behind() -> None:
    go = Event()
    with pytest.raises(Late):
        within(0.05, go.wait)
    go.set()
