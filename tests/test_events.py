"""events.jsonl: what it says of starts that finished, stopped, failed or were killed."""

import json
from pathlib import Path
from typing import Any

import pytest

from pretrain.errors import PretrainError, StoppedBySignal
from pretrain.events import RunEvents
from pretrain.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def written(folder: RunFolder) -> list[dict[str, Any]]:
    """All lines, without their dates."""
    lines = [json.loads(line) for line in folder.events.read_text().splitlines()]
    assert all(line.pop("date").endswith("+00:00") for line in lines)
    return lines


def test_a_start_and_its_end(folder: RunFolder) -> None:
    with RunEvents(folder, frozenset({"s3cret"})).of_start(7, {"host": "n1", "job": "s3cret-1"}, lambda: 9):
        assert written(folder) == [{"event": "start", "step": 7, "host": "n1", "job": "***-1"}]
    assert written(folder)[1:] == [{"event": "end", "step": 9, "code": 0, "said": "Finished."}]


@pytest.mark.parametrize(
    ("error", "code"),
    [(StoppedBySignal("Stopped."), 75), (PretrainError("Failed."), 1), (OSError("No space"), 1)],
)
def test_a_stop_and_a_failure_go_on_their_way(folder: RunFolder, error: Exception, code: int) -> None:
    with pytest.raises(type(error)) as raised, RunEvents(folder, frozenset()).of_start(0, {}, lambda: 4):
        raise error
    assert raised.value is error
    assert written(folder)[1:] == [{"event": "end", "step": 4, "code": code, "said": str(error)}]


def test_a_fault_is_kept_before_its_file_goes(folder: RunFolder) -> None:
    events = RunEvents(folder, frozenset())
    events.keep_fault()
    assert not folder.events.exists()
    fault = folder.path / "fault.json"
    fault.write_text(json.dumps({"rank": 3, "code": 75, "sentence": "Rank 3 died.", "is_fault": True}))
    events.keep_fault()
    assert written(folder) == [{"event": "fault", "rank": 3, "code": 75, "said": "Rank 3 died."}]
    assert not fault.exists()
    fault.write_text("half of i")
    events.keep_fault()
    assert len(written(folder)) == 1 and not fault.exists()
