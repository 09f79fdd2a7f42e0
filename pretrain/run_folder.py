"""The folder of a run: where everything lies, and the lock that keeps a second run out.

config.json      all that was resolved        checkpoints/step-00000100/, checkpoints/latest
metrics.jsonl    one object per step          model/        the Hugging Face folder, at the end
eval.jsonl       one object per validation    tensorboard/  the same curves
samples.jsonl    with log.samples: the names of each step's samples
not-finite-step-00000100.json    what was found out about a step that ended the run by a loss or gradient not finite
"""

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretrain.errors import UsageError


class RunFolder:
    """Paths of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"
        self.metrics = path / "metrics.jsonl"
        self.evaluations = path / "eval.jsonl"
        self.samples = path / "samples.jsonl"
        self.tensorboard = path / "tensorboard"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self._finished = path / "finished"
        self._lock = path / "run.lock"

    def create(self) -> None:
        """Makes the folder. Raises UsageError where that cannot be or nothing can be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".writable-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UsageError(
                f"--output {self.path} cannot be written: {error.strerror or error}; choose another folder."
            ) from None

    def lock(self, job: str | None) -> None:
        """Takes the folder for this process.

        A lock is stale, and replaced, if its process on this host is gone, or if this very batch job (`job`)
        left it on another host, where it ran before it was started again. Raises UsageError if another run holds it.
        """
        mine = {"host": socket.gethostname(), "pid": os.getpid(), "job": job}
        for _ in range(2):
            try:
                with open(self._lock, "x", encoding="utf-8") as file:
                    json.dump(mine, file)
                return
            except FileExistsError:
                holder = _read_lock(self._lock)
                if not _is_stale(holder, mine):
                    raise UsageError(
                        f"--output {self.path} is in use by process {holder.get('pid')} on {holder.get('host')}: wait "
                        f"for it, choose another folder, or delete {self._lock} if that run is gone."
                    ) from None
                self._lock.unlink(missing_ok=True)
        raise UsageError(f"--output {self.path} was taken by another run this moment; choose another folder.")

    def unlock(self) -> None:
        """Gives the folder back."""
        self._lock.unlink(missing_ok=True)

    def mark_finished(self, steps: int) -> None:
        """Says that model/ is whole and of this many steps."""
        partial = self._finished.with_suffix(".partial")
        partial.write_text(f"{steps}\n", encoding="utf-8")
        partial.replace(self._finished)

    def finished_steps(self) -> int | None:
        """The steps that model/ was trained for; None where it is not there."""
        if not self.model.is_dir() or not self._finished.is_file():
            return None
        text = self._finished.read_text(encoding="utf-8").strip()
        return int(text) if text.isdigit() else None

    def write_config(self, content: Mapping[str, Any]) -> None:
        """Writes config.json whole or not at all."""
        partial = self.config.with_suffix(".partial")
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        partial.replace(self.config)


def _read_lock(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_stale(holder: Mapping[str, Any], mine: Mapping[str, Any]) -> bool:
    if holder.get("host") != mine["host"]:
        return mine["job"] is not None and holder.get("job") == mine["job"]
    pid = holder.get("pid")
    if not isinstance(pid, int) or pid == mine["pid"]:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
