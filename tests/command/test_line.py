"""The line itself: what there is, and the exit code and sentence of every mistake."""

import sys
from pathlib import Path

import pytest

from pretrain.command import COMMANDS
from pretrain.command.line import Command, run
from pretrain.errors import DataError
from tests.command.runs import command
from tests.worlds import run_command


def test_alone_it_lists_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert command() == 0
    out = capsys.readouterr().out
    assert all(f"    {each.name} " in out for each in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("vrify", "x"), "invalid choice: 'vrify'"),
        (("verify",), "required: RUN|CHECKPOINT"),
        (("verify", "x", "--qick"), "unrecognized arguments: --qick"),
        (("export", "x"), "required: --output"),
        (("verify", "nowhere"), "nowhere is not a folder"),
    ],
)
def test_mistakes_in_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], part: str
) -> None:
    assert command(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert part in captured.err


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (DataError("it is broken."), 3, "error: it is broken.\n"),
        (FileNotFoundError(2, "No such file", "a/b"), 1, "error: a/b: No such file.\n"),
        (KeyboardInterrupt(), 75, "error: stopped by SIGINT before it was done; start it again.\n"),
    ],
)
def test_what_a_command_raises(
    capsys: pytest.CaptureFixture[str], raised: BaseException, code: int, said: str
) -> None:
    def fail(_: object) -> None:
        raise raised

    assert run([Command("fail", "fails", lambda parser: None, fail)], ["fail"]) == code
    assert capsys.readouterr().err == said


def test_as_it_is_typed(tmp_path: Path) -> None:
    done = run_command([sys.executable, "-m", "pretrain", "verify", tmp_path / "x"])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
