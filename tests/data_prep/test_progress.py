"""What is shown on the way, and the rate at the end."""

import pytest

import data_prep.progress as progress_module
from data_prep.progress import Progress
from data_prep.report import Timings


def test_what_was_done_before_a_resume_is_no_speed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now)
    progress = Progress()
    progress.start("tokenizing", "bytes", 1_000_000_000, 900_000_000)
    now = 120.0
    progress.advance(40_000_000)
    # 40 MB in 20 s, and 60 MB to go.
    assert "940.0 of 1,000.0 MB, 2.0 MB/s, 30 s to go" in capsys.readouterr().err
    progress.stop()
    assert "2.0 MB/s in 20.0 s" in capsys.readouterr().err


def test_a_steady_rate_needs_some_seconds() -> None:
    timings = Timings(seconds={"encoding": 3.9, "first result": 3.0}, encoded_bytes=9_000_000)
    timings.first_result_bytes = 1_000_000
    assert timings.mb_per_second is None
    timings.seconds["encoding"] = 7.0
    assert timings.mb_per_second == pytest.approx(2.0)  # 8 MB in 4 s
    assert Timings().mb_per_second is None
