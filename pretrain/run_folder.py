"""The folder of a run: where everything lies, and the lock that keeps a second run out.

config.json      all that was resolved        checkpoints/step-00000100/, checkpoints/latest
metrics.jsonl    one object per step          model/        the Hugging Face folder, at the end
eval.jsonl       one object per validation    tensorboard/  the same curves
samples.jsonl    with log.samples: the names of each step's samples
events.jsonl     every start of the run, how each ended, and faults
ranks.jsonl      every so many steps, the ranks beside each other    logs/  what each rank has said
profile/         with profile.from_step: traces of the steps, and their costliest operators
not-finite-step-00000100.json    what was found out about a step that ended the run by a loss or gradient not finite
"""

import errno
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from pretrain.disk import refusal
from pretrain.errors import DataError, PretrainError, UsageError
from pretrain.files import read_bounded
from pretrain.lock import FolderLock

_MAX_CONFIG_BYTES = 16 << 20
# What a file system says that is full, not to be written to, or broken.
_REFUSALS = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)
)


class RunFolder:
    """Paths of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"
        self.metrics = path / "metrics.jsonl"
        self.evaluations = path / "eval.jsonl"
        self.samples = path / "samples.jsonl"
        self.events = path / "events.jsonl"
        self.ranks = path / "ranks.jsonl"
        self.logs = path / "logs"
        self.profile = path / "profile"
        self.tensorboard = path / "tensorboard"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self._finished = path / "finished"
        self._lock = FolderLock(path / "run.lock")

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

    def refused(self, error: OSError) -> PretrainError | None:
        """The sentence for a write that the disk has refused, or for a folder that has gone; None for other errors."""
        is_ours = Path(str(error.filename)).is_relative_to(self.path)
        if error.errno not in _REFUSALS and not (error.errno == errno.ENOENT and is_ours):
            return None
        return PretrainError(
            f"{refusal(error, self.path)}. Saved checkpoints are whole: free space or choose another --output, and "
            "start again."
        )

    def lock(self, job: str | None) -> None:
        """Takes the folder for this process (`lock`). Raises UsageError if another run holds it."""
        self._lock.take(job)

    def check_free(self, job: str | None) -> None:
        """Raises UsageError where `lock` would; changes nothing."""
        self._lock.check_free(job)

    def unlock(self) -> None:
        """Gives the folder back."""
        self._lock.give_back()

    def mark_finished(self, steps: int) -> None:
        """Says that model/ is whole and of this many steps."""
        partial = self._finished.with_suffix(".partial")
        partial.write_text(f"{steps}\n", encoding="utf-8")
        partial.replace(self._finished)

    def unmark_finished(self) -> None:
        """Before a step is trained: what model/ holds may be of another course from then on."""
        self._finished.unlink(missing_ok=True)

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

    def read_config(self) -> dict[str, Any]:
        """What the last start wrote there; nothing where it is missing or broken."""
        with suppress(OSError, DataError, ValueError):
            content = from_json(read_bounded(self.config, _MAX_CONFIG_BYTES))
            if isinstance(content, dict):
                return content
        return {}
