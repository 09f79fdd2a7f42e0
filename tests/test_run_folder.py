"""A run's folder: where it can be, and what is written whole."""

import errno
import json
import os
from pathlib import Path

import pytest

from pretrain.errors import PretrainError, UsageError
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


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE])
def test_what_the_disk_refuses_is_a_sentence(folder: RunFolder, number: int) -> None:
    error = folder.refused(OSError(number, os.strerror(number)))
    assert isinstance(error, PretrainError) and error.exit_code == 1
    assert str(error).startswith(f"{folder.path}: {os.strerror(number)}; ")
    named = folder.refused(OSError(number, os.strerror(number), "/elsewhere/file"))
    assert str(named).startswith(f"/elsewhere/file: {os.strerror(number)}; ")


def test_what_is_missing_is_the_disk_s_only_in_the_folder(folder: RunFolder) -> None:
    missing = OSError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder.metrics))
    assert str(folder.refused(missing)).startswith(f"{folder.metrics}: No such file or directory; ")
    assert folder.refused(FileNotFoundError(errno.ENOENT, "No such file", "/elsewhere/file")) is None
    assert folder.refused(ConnectionResetError(errno.ECONNRESET, "reset")) is None
