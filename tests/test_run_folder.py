"""A run's folder: where it can be, and what is written whole."""

import json
from pathlib import Path

import pytest

from pretrain.errors import UsageError
from pretrain.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "runs" / "mine")
    made.create()
    return made


def test_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file/mine cannot be written"):
        RunFolder(tmp_path / "file" / "mine").create()


def test_config_is_written_whole(folder: RunFolder) -> None:
    folder.write_config({"recipe": {"seed": 1}})
    assert json.loads(folder.config.read_text()) == {"recipe": {"seed": 1}}
    assert [path.name for path in folder.path.iterdir()] == ["config.json"]
