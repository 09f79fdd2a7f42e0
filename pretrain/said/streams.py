"""stdout and stderr of a rank: what is said there goes into the rank's own file, and rank 0's to the terminal too.

1. `replace` puts objects in the place of `sys.stdout` and `sys.stderr`, before libraries are imported whose loggers
   take hold of them. What is said is kept until it is known who this is.
2. `know` says which rank it is. What rank 0 has said goes on to the terminal, as all that it says from then on. Of the
   others only errors do: N ranks would say the same warning N times.
3. `write_into` names the file in the run folder; what was kept comes first. Every line has its time, UTC.

Only the objects are replaced. What is written to the file descriptors themselves (by NCCL, or by a process that
aborts) goes where it always went: no pipe, thread or process is there that could lose the last words of a process.
"""

import os
import sys
from collections.abc import Collection
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import RLock
from typing import Any, TextIO

from pretrain.said.errors import ErrorLines
from pretrain.said.lines import stamped, without_controls
from pretrain.secrets import without_secrets

MAX_KEPT_CHARACTERS = 1 << 20  # until the file is known
MAX_LINE_CHARACTERS = 1 << 16  # of one that has no end, as a progress bar's
_LOCK_SECONDS = 1.0  # a process that ends shall not wait for ever for another of its threads


class Said:
    """Of one process. Without `replace` it does nothing."""

    def __init__(self) -> None:
        self._streams: list[SaidStream] = []

    def replace(self) -> None:
        """Before anything that might hold on to `sys.stdout` or `sys.stderr` is imported."""
        log = RankLog()
        out, err = (
            SaidStream(stream, log, says_errors=is_stderr)
            for stream, is_stderr in ((sys.stdout, False), (sys.stderr, True))
        )
        self._streams = [out, err]
        stands_for_out: Any = out
        stands_for_err: Any = err
        sys.stdout, sys.stderr = stands_for_out, stands_for_err
        os.register_at_fork(after_in_child=log.forget_locks)

    def know(self, rank: int, secrets: Collection[str]) -> None:
        """Who this is, and what must not be written into the file."""
        for stream in self._streams:
            stream.log.secrets = secrets
            stream.know(rank)

    def write_into(self, folder: Path, rank: int, ranks: int) -> None:
        """The files of the run lie in this folder from now on. Never an error: one warning where it cannot be."""
        if self._streams:
            problem = self._streams[0].log.open(folder, rank, ranks)
            if problem is not None:
                self._streams[1].warn(problem)

    def end(self) -> None:
        """The process ends: what was held back is said, and a last line without an end is kept."""
        for stream in self._streams:
            stream.end()


class RankLog:
    """The file of a rank, and what was said before it was there."""

    def __init__(self) -> None:
        self.lock = RLock()
        self._began = datetime.now(UTC)
        self._kept: list[str] = []
        self._kept_characters = 0
        self.secrets: Collection[str] = ()  # not to be written down
        self._descriptor: int | None = None
        self._is_lost = False

    def forget_locks(self) -> None:
        """In a forked child, where the thread that held it is not."""
        self.lock = RLock()

    def open(self, folder: Path, rank: int, ranks: int) -> str | None:
        """From now on lines go there; why they cannot, if so."""
        path = folder / f"rank-{rank:05d}.log"
        try:
            folder.mkdir(exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":  # a kill has cut the last line
                os.write(descriptor, b"\n")
        except OSError as error:
            self._is_lost, self._kept = True, []
            return f"{path} cannot be written ({error.strerror}), so the log of this rank is not kept."
        kept, self._kept, self._descriptor = self._kept, [], descriptor
        return self.add([stamped(f"--- start: {ranks} rank(s) ---", self._began), *kept])

    def add(self, lines: list[str]) -> str | None:
        """Lines with their time; why they cannot be written, once."""
        if self._is_lost:
            return None
        if self._descriptor is None:
            self._kept += lines
            self._kept_characters += sum(map(len, lines))
            if self._kept_characters > MAX_KEPT_CHARACTERS:
                self._kept, self._kept_characters = self._kept[-1:], 0
            return None
        text = "".join(f"{without_secrets(line, self.secrets)}\n" for line in lines)
        content = text.encode("utf-8", errors="replace")
        try:
            while content:  # one write, and so whole lines, but on a disk that is nearly full
                content = content[os.write(self._descriptor, content) :]
        except OSError as error:
            self._is_lost = True
            return (
                f"The log of this rank is not kept any more: its file cannot be written ({error.strerror})."
            )
        return None


class SaidStream:
    """In the place of a text stream; what it does not know, the stream knows."""

    def __init__(self, stream: TextIO, log: RankLog, *, says_errors: bool) -> None:
        self.log = log
        self._stream, self._says_errors = stream, says_errors
        self._rank: int | None = None
        self._unsaid: list[str] = []  # while nobody knows whether it is for the terminal
        self._line = ""
        self._errors = ErrorLines()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def know(self, rank: int) -> None:
        """What was held back goes to the terminal, if it is rank 0's."""
        with self.log.lock:
            self._rank = rank
            self._release(rank == 0)

    def write(self, text: str) -> int:
        """As a text stream's."""
        taken, problem = self.log.lock.acquire(timeout=_LOCK_SECONDS), None
        try:
            lines = self._lines_of(text)
            try:
                self._say(text, lines)
            finally:  # a terminal that is gone is an error, and no reason to forget what was said
                problem = self.log.add([stamped(line) for line in map(without_controls, lines) if line])
        finally:
            if taken:
                self.log.lock.release()
        if problem is not None:
            self.warn(problem)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._stream.flush()

    def warn(self, problem: str) -> None:
        """On the terminal alone."""
        with suppress(OSError, ValueError):
            self._stream.write(f"warning: rank {self._rank}: {problem}\n")
            self._stream.flush()

    def end(self) -> None:
        """The process ends: the last line may have no end."""
        if self._rank is None:
            self._release(True)
        if self._line:
            self.log.add([stamped(without_controls(self._line))])
            self._line = ""
        self._stream.flush()

    def _say(self, text: str, lines: list[str]) -> None:
        """What of it is for the terminal."""
        if self._rank is None:
            self._hold_back(text, lines)
        elif self._rank == 0:
            self._stream.write(text)
        elif self._says_errors:
            self._say_errors(lines)

    def _lines_of(self, text: str) -> list[str]:
        """Those that end with it; of what a carriage return has written over, the last."""
        *lines, self._line = (self._line + text).split("\n")
        self._line = self._line.rpartition("\r")[2] if not self._line.endswith("\r") else self._line
        if len(self._line) > MAX_LINE_CHARACTERS:
            lines, self._line = [*lines, self._line], ""
        return [line.rstrip("\r").rpartition("\r")[2] for line in lines]

    def _hold_back(self, text: str, lines: list[str]) -> None:
        """An error before this process knows its rank may be its last words."""
        self._unsaid.append(text)
        if self._says_errors and any(self._errors.takes(line) for line in lines):
            self._release(True)

    def _release(self, is_said: bool) -> None:
        unsaid, self._unsaid = self._unsaid, []
        if is_said and unsaid:
            self._stream.write("".join(unsaid))
            self._stream.flush()

    def _say_errors(self, lines: list[str]) -> None:
        said = [line for line in lines if self._errors.takes(line)]
        if said:
            marks = ("" if line.startswith("error: ") else f"[rank {self._rank}] " for line in said)
            self._stream.write("".join(f"{mark}{line}\n" for mark, line in zip(marks, said, strict=True)))
            self._stream.flush()
