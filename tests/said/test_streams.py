"""What reaches the terminal and what the file of a rank, by rank; the process's last words too."""

import io
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pretrain.said import Said
from tests.worlds import ROOT


@dataclass
class Terminal:
    """What stdout and stderr were before they were replaced."""

    out: io.StringIO
    err: io.StringIO

    def replaced(self, monkeypatch: pytest.MonkeyPatch) -> Said:
        monkeypatch.setattr(sys, "stdout", self.out)
        monkeypatch.setattr(sys, "stderr", self.err)
        said = Said()
        said.replace()
        return said


@pytest.fixture
def terminal() -> Terminal:
    return Terminal(io.StringIO(), io.StringIO())


def lines(path: Path) -> list[str]:
    """Without their times, which are of now."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        time, _, text = line.partition(" ")
        assert len(time) == 24 and time.endswith("Z")
        assert abs(datetime.now(UTC) - datetime.fromisoformat(time)) < timedelta(minutes=1)
        found.append(text)
    return found


def test_rank_0_goes_on_to_the_terminal_and_all_of_it_is_in_the_file(
    tmp_path: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = terminal.out, terminal.err
    said = terminal.replaced(monkeypatch)
    print("importing")
    print("UserWarning: early", file=sys.stderr)
    assert (out.getvalue(), err.getvalue()) == ("", "")  # nobody knows yet who this is
    said.know(0, ())
    assert out.getvalue() == "importing\n" and "UserWarning: early" in err.getvalue()
    print("known", end="")
    print(" and going on", flush=True)
    said.write_into(tmp_path / "logs", 0, 2)
    print("training")
    print("oops", file=sys.stderr)
    assert out.getvalue() == "importing\nknown and going on\ntraining\n"
    assert err.getvalue().endswith("oops\n")
    start, first, *others = lines(tmp_path / "logs" / "rank-00000.log")
    assert (start, first) == ("--- start: 2 rank(s) ---", "importing")
    assert others[-3:] == ["known and going on", "training", "oops"]
    assert any("UserWarning: early" in line for line in others)


def test_other_ranks_say_on_the_terminal_only_errors(
    tmp_path: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = terminal.out, terminal.err
    said = terminal.replaced(monkeypatch)
    logger = logging.getLogger("a library")
    logger.addHandler(logging.StreamHandler())  # takes the stderr of now, as libraries do at their import
    print("importing")
    print("importing still", file=sys.stderr)
    said.know(3, ())
    said.write_into(tmp_path, 3, 8)
    print("step")
    logger.warning("no GPU")
    assert (out.getvalue(), err.getvalue()) == ("", "")
    print("error: rank 3: No store.", file=sys.stderr)
    print("  more of it", file=sys.stderr)
    assert err.getvalue() == "error: rank 3: No store.\n[rank 3]   more of it\n"
    assert out.getvalue() == ""
    kept = lines(tmp_path / "rank-00003.log")
    before, after = ["importing", "importing still", "step"], ["error: rank 3: No store.", "  more of it"]
    assert kept == ["--- start: 8 rank(s) ---", *before, "no GPU", *after]
    logger.handlers.clear()


def test_an_error_does_not_make_a_rank_loud_for_ever(
    tmp_path: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("pretrain.said.errors.monotonic", lambda: now)
    said = terminal.replaced(monkeypatch)
    said.know(1, ())
    print("Traceback (most recent call last):\n  File ...\nKeyError: 1", file=sys.stderr)
    now += 0.5
    print("During handling", file=sys.stderr)
    now += 1.5
    print("a warning", file=sys.stderr)
    assert terminal.err.getvalue().splitlines() == [
        "[rank 1] Traceback (most recent call last):",
        "[rank 1]   File ...",
        "[rank 1] KeyError: 1",
        "[rank 1] During handling",
    ]


def test_an_error_before_the_rank_is_known_is_said_with_what_was_held_back(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal.replaced(monkeypatch)
    print("loading", file=sys.stderr)
    print("Traceback (most recent call last):", file=sys.stderr)
    assert terminal.err.getvalue() == "loading\nTraceback (most recent call last):\n"


_FAILING = """
import os, sys, threading, warnings
from pathlib import Path
from pretrain.said import Said
said = Said()
said.replace()
said.know(int(sys.argv[2]), ())
said.write_into(Path(sys.argv[1]), int(sys.argv[2]), 4)
print("quiet")
warnings.warn("quiet too")
if os.fork() == 0:
    print("of a child")
    os._exit(0)
os.wait()
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
os.write(2, b"from C\\n")
{}["no such key"]
"""


def test_tracebacks_of_a_process_reach_the_terminal_with_its_rank(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _FAILING, str(tmp_path), "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    said = done.stderr.splitlines()
    assert "from C" in said
    assert "[rank 2] ZeroDivisionError: division by zero" in said
    assert said[-1] == "[rank 2] KeyError: 'no such key'"
    assert said.count("[rank 2] Traceback (most recent call last):") == 2
    assert "quiet too" not in done.stderr
    kept = lines(tmp_path / "rank-00002.log")
    assert {"quiet", "of a child", "KeyError: 'no such key'"} <= set(kept)


def test_colours_and_bars_are_lines_of_text_in_the_file(
    tmp_path: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = terminal.replaced(monkeypatch)
    said.know(0, ())
    said.write_into(tmp_path, 0, 1)
    written = (
        "\x1b[1;32mgreen\x1b[0m\n"
        + "\r\x1b[2K 10%"
        + "\r\x1b[2K 90%"
        + "\r\x1b[2Ksaved\n"
        + "\x1b]0;title\x07x\r\n\n"
    )
    for character in written:
        sys.stdout.write(character)
    assert terminal.out.getvalue() == written
    assert lines(tmp_path / "rank-00000.log")[1:] == ["green", "saved", "x"]
    sys.stdout.write("no end")
    said.end()
    assert lines(tmp_path / "rank-00000.log")[-1] == "no end"


def test_secrets_are_in_no_file(tmp_path: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    said = terminal.replaced(monkeypatch)
    print("token hf_0123456789 of the environment")
    said.know(0, frozenset({"hf_0123456789"}))
    said.write_into(tmp_path, 0, 1)
    print("from https://user:password@host/x?token=abc")
    assert lines(tmp_path / "rank-00000.log")[1:] == [
        "token *** of the environment",
        "from https://***@host/x?token=***",
    ]


def test_a_line_that_a_kill_has_cut_stays_a_line(
    tmp_path: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rank-00000.log"
    path.write_text("2026-01-02T03:04:05.678Z cut sh")
    said = terminal.replaced(monkeypatch)
    said.know(0, ())
    said.write_into(tmp_path, 0, 1)
    first, second = path.read_text().splitlines()
    assert first == "2026-01-02T03:04:05.678Z cut sh" and second.endswith("--- start: 1 rank(s) ---")


@pytest.mark.parametrize("kind", ["no folder", "full"])
def test_a_file_that_cannot_be_written_is_one_warning(
    tmp_path: Path, terminal: Terminal, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = tmp_path / "logs"
    if kind == "no folder":
        logs.write_text("a file is in its place")
    else:
        logs.mkdir()
        os.symlink("/dev/full", logs / "rank-00001.log")
    said = terminal.replaced(monkeypatch)
    said.know(1, ())
    said.write_into(logs, 1, 2)
    for _ in range(3):
        print("training goes on")
    (warning,) = terminal.err.getvalue().splitlines()
    assert warning.startswith("warning: rank 1: ")
    assert ("File exists" if kind == "no folder" else "No space left on device") in warning
    assert terminal.out.getvalue() == ""


def test_what_a_terminal_does_not_take_is_in_the_file(
    tmp_path: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = terminal.replaced(monkeypatch)
    said.know(0, ())
    said.write_into(tmp_path, 0, 1)
    terminal.out.close()
    with pytest.raises(ValueError, match="closed"):
        sys.stdout.write("last words\n")
    assert lines(tmp_path / "rank-00000.log")[1:] == ["last words"]
