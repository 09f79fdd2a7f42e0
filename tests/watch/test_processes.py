"""What can be known of a process of this machine."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pretrain.watch.processes import ProcessId, innermost_frame, launchers, machine, process

SLEEP = ["sleep", "600"]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_alive_stopped_killed_and_gone() -> None:
    with subprocess.Popen(SLEEP) as child:
        seen = process(child.pid)
        assert seen is not None
        wait_for(lambda: not seen.is_dead)
        child.send_signal(signal.SIGSTOP)
        wait_for(lambda: seen.state == "T")
        another = ProcessId(seen.pid, seen.started - 1)  # of the same number
        assert another.is_dead
        another.kill()
        time.sleep(0.1)
        wait_for(lambda: seen.state == "T")
        seen.kill()
        wait_for(lambda: seen.state == "Z")
        assert seen.is_dead
    wait_for(lambda: seen.state == "gone" and seen.is_dead)
    assert process(child.pid) is None


def test_this_machine_is_itself() -> None:
    script = "from pretrain.watch.processes import machine; print(machine())"
    root = Path(__file__).resolve().parents[2]
    said = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == machine()


@pytest.mark.parametrize(
    ("name", "num_watched"), [("torchrun", 1), ("deepspeed.launcher.launch", 1), ("something-else", 0)]
)
def test_launchers_are_known_by_name(name: str, num_watched: int, tmp_path: Path) -> None:
    """Who starts a run from a shell may log out; who uses a launcher expects it to end with that."""
    root = Path(__file__).resolve().parents[2]
    script = tmp_path / name
    command = f"[sys.executable, '-c', {LIST!r}], cwd={str(root)!r}"
    script.write_text(f"import subprocess, sys\nsys.exit(subprocess.run({command}).returncode)")
    said = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    watched = said.stdout.split()
    assert len(watched) == num_watched + 1
    assert all(pid == watched[0] for pid in watched[1:])


LIST = """
import os
from pretrain.watch.processes import launchers
print(os.getppid(), *(each.pid for each in launchers()))
"""


def test_no_launcher_started_this_test() -> None:
    assert [each.pid for each in launchers() if each.pid != os.getppid()] == []


def test_where_a_thread_is() -> None:
    ready, leave = threading.Event(), threading.Event()

    def stand() -> None:
        ready.set()
        leave.wait()

    thread = threading.Thread(target=stand)
    thread.start()
    ready.wait()
    where, exchanging = innermost_frame(thread.ident or 0)
    leave.set()
    thread.join()
    assert where.startswith(("threading.py:", "test_processes.py:"))
    assert not exchanging
    assert innermost_frame(-1) == ("ended", False)
