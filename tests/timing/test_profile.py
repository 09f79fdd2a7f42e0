"""Traces that a run was asked for: their steps and phases, what is left when it ends in between."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.errors import StoppedBySignal
from pretrain.timing import Profile, ProfileOptions
from pretrain.watch import Activity

OPTIONS = ProfileOptions(from_step=3, steps=2)


def train(profile: Profile, activity: Activity, first: int, last: int) -> None:
    """Steps of two phases."""
    weight = torch.ones(8, 8, requires_grad=True)
    for step in range(first, last + 1):
        profile.before(step)
        activity.now("waiting for data", step)
        batch = torch.rand(4, 8)
        activity.now("forward and backward of micro-batch 1 of 1")
        (batch @ weight).sum().backward()


def traced(folder: Path, options: ProfileOptions, first: int, last: int, rank: int = 0) -> list[str]:
    """The names of what lies in the folder then."""
    activity = Activity()
    with Profile(options, folder, rank, activity) as profile:
        train(profile, activity, first, last)
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def events(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") as file:
        found: list[dict[str, Any]] = json.load(file)["traceEvents"]
    return found


@pytest.mark.parametrize(
    ("first", "last", "steps"), [(1, 6, (3, 4)), (1, 3, (3, 3)), (4, 9, (4, 4)), (3, 4, (3, 4))]
)
def test_the_steps_that_are_asked_for_as_far_as_the_run_has_them(
    tmp_path: Path, first: int, last: int, steps: tuple[int, int]
) -> None:
    name = f"steps-{steps[0]}-{steps[1]}.rank-2"
    found = traced(tmp_path / "profile", ProfileOptions(3, 2, [0, 2]), first, last, rank=2)
    assert found == [f"{name}.json.gz", f"{name}.txt"]
    ranges = [event for event in events(tmp_path / "profile" / f"{name}.json.gz") if "dur" in event]
    names = [event["name"] for event in ranges]
    count = steps[1] - steps[0] + 1
    assert [f"step {step}" for step in range(1, 10) if f"step {step}" in names] == [
        f"step {step}" for step in range(steps[0], steps[1] + 1)
    ]
    for phase in ("waiting for data", "forward and backward of micro-batch 1 of 1"):
        assert names.count(phase) == count
    # Forward and backward of a product: one of the two inputs needs a gradient.
    assert names.count("aten::mm") == 2 * count and "MmBackward0" in names
    work = next(event for event in ranges if event["name"].startswith("forward"))
    inner = next(event for event in ranges if event["name"] == "aten::rand")
    outer = next(event for event in ranges if event["name"] == f"step {steps[0]}")
    assert outer["ts"] <= inner["ts"] < work["ts"]
    assert work["ts"] + work["dur"] <= outer["ts"] + outer["dur"]
    assert "aten::mm" in (tmp_path / "profile" / f"{name}.txt").read_text()


@pytest.mark.parametrize(
    ("options", "first", "last"),
    [(ProfileOptions(), 1, 4), (OPTIONS, 1, 2), (OPTIONS, 5, 6), (ProfileOptions(3, 2, [1]), 1, 6)],
)
def test_nothing_is_written_where_nothing_was_traced(
    tmp_path: Path, options: ProfileOptions, first: int, last: int
) -> None:
    assert traced(tmp_path / "profile", options, first, last) == []


def test_a_run_that_is_stopped_in_between_leaves_what_there_is(tmp_path: Path) -> None:
    activity = Activity()
    with (
        pytest.raises(StoppedBySignal),
        Profile(ProfileOptions(2, 50), tmp_path / "profile", 0, activity) as profile,
    ):
        train(profile, activity, 1, 4)
        raise StoppedBySignal("Stopped by SIGTERM after step 4, saved; start again to continue.")
    assert sorted(path.name for path in (tmp_path / "profile").iterdir()) == [
        "steps-2-4.rank-0.json.gz",
        "steps-2-4.rank-0.txt",
    ]


def test_an_error_is_not_replaced_by_one_of_the_trace(tmp_path: Path) -> None:
    (tmp_path / "profile").write_text("a file is in its place")
    activity = Activity()
    with pytest.raises(KeyError), Profile(OPTIONS, tmp_path / "profile", 0, activity) as profile:
        train(profile, activity, 1, 3)
        raise KeyError("what ended the run")
    train(Profile(), activity, 1, 2)  # the activity tells nobody any more


def test_a_disk_that_takes_half_a_trace_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(profiler: Any, path: str) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.profiler.profile.export_chrome_trace", full)
    with pytest.raises(OSError, match="No space left"):
        traced(tmp_path / "profile", OPTIONS, 1, 6)
    assert list((tmp_path / "profile").iterdir()) == []


def test_no_random_number_is_drawn(tmp_path: Path) -> None:
    torch.manual_seed(1)
    traced(tmp_path / "a", OPTIONS, 1, 6)
    after = torch.rand(3)
    torch.manual_seed(1)
    traced(tmp_path / "b", ProfileOptions(), 1, 6)
    assert torch.equal(torch.rand(3), after)
