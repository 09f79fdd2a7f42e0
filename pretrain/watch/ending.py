"""How a run ends that cannot go on: one process says why, all leave their stacks, and no one waits for another.

Nothing here may hang: whatever touches a disk, the store or a terminal gets a few seconds in a thread of its own.
"""

import faulthandler
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from select import POLLERR, poll
from threading import Thread
from typing import TypeVar

from pretrain.errors import DataError
from pretrain.files import json_object, read_bounded
from pretrain.watch.beats import Beats, End, as_json

Result = TypeVar("Result")
FAULT_NAME = "fault.json"
MAX_FAULT_BYTES = 1 << 20
STACKS_NAME = "stacks"
STORE_SECONDS = 1.5
DISK_SECONDS = 2.0


def within(seconds: float, action: Callable[[], Result]) -> Result | None:
    """What `action` returns; None where it fails or takes longer, and it is left alone then."""
    results: list[Result] = []

    def run() -> None:
        try:
            results.append(action())
        except Exception:
            return

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return results[0] if results else None


class FaultFolder:
    """What a run folder keeps of a fault: `fault.json`, written by the first who can say what it is, and the stacks."""

    def __init__(self, run: Path) -> None:
        self._fault, self._stacks = run / FAULT_NAME, run / STACKS_NAME

    def clear(self) -> None:
        """Before a start: what lies there is of an earlier one."""
        self._fault.unlink(missing_ok=True)

    def claim(self, end: End) -> End:
        """Writes how the run ends, unless somebody has; what holds."""
        try:
            with open(self._fault, "x", encoding="utf-8") as file:
                file.write(as_json(end))
        except FileExistsError:
            try:
                return End(**json.loads(self._fault.read_text(encoding="utf-8")))
            except ValueError:  # being written
                return End(-1, end.code, "", end.is_fault)
        return end

    def kept(self) -> tuple[End, float] | None:
        """What an earlier start left, and when, in seconds since 1970; None where there is nothing that can be read."""
        try:
            content = json_object(read_bounded(self._fault, MAX_FAULT_BYTES))
            return End(**content), self._fault.lstat().st_mtime
        except (OSError, ValueError, TypeError, DataError):
            return None

    def stacks_path(self, rank: int) -> Path:
        return self._stacks / f"rank-{rank:05d}.txt"

    def write_flight_record(self, rank: int, record: bytes | None) -> None:
        """What NCCL has not done yet, if it is in use."""
        if record is not None:
            self.stacks_path(rank).with_suffix(".nccl.json").write_bytes(record)

    def write_stacks(self, rank: int, head: str) -> None:
        """Where every thread of this process is."""
        self._stacks.mkdir(exist_ok=True)
        with open(self.stacks_path(rank), "w", encoding="utf-8") as file:
            file.write(f"{head}\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)


def settle(end: End, beats: Beats | None, folder: FaultFolder | None) -> End:
    """How the run ends: as `end` says, unless another process was first. By the store, or where it does not answer by
    the run folder, which then keeps it too."""
    held = None if beats is None else beats.claim(end, STORE_SECONDS)
    if end.is_fault and folder is not None and (held is None or held.rank == end.rank):
        written = within(DISK_SECONDS, lambda: folder.claim(end))
        held = held or written
    return held or end


def say(text: str) -> None:
    """On stderr, if somebody reads it."""

    def write() -> None:
        print(text, file=sys.stderr, flush=True)

    within(DISK_SECONDS, write)


def mute_what_nobody_reads() -> None:
    """A launcher that was killed may have been the reader of our output; writing to it would be an error."""
    for output in (1, 2):
        asking = poll()
        asking.register(output, 0)
        if any(event & POLLERR for _, event in asking.poll(0)):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, output)
            os.close(nowhere)
