"""events.jsonl of a run folder: when the run was started, and how each start ended.

metrics.jsonl keeps of every step the last time it was made, and config.json what the last start resolved. This file
keeps every start, one JSON object per line and never shortened:

1. a start, with the step it goes on from, the host, and what it computes with;
2. the end that it came to: finished, stopped, or failed, with the sentence that it said and its exit code;
3. before the next start, the fault that the earlier one left (`fault.json`), which is then taken away.

A start without an end was killed. All dates are UTC, to the second.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from pretrain.errors import PretrainError
from pretrain.run_folder import RunFolder
from pretrain.secrets import without_secrets
from pretrain.watch.ending import FaultFolder


class RunEvents:
    """Of one run folder, for the process that has its lock. `secrets` are left out of every line."""

    def __init__(self, folder: RunFolder, secrets: frozenset[str]) -> None:
        self._folder, self._secrets = folder, secrets

    def keep_fault(self) -> None:
        """Before a start: what an earlier one left in fault.json becomes a line here, and the file goes."""
        faults = FaultFolder(self._folder.path)
        kept = faults.kept()
        if kept is not None:
            end, at = kept
            self._note(
                "fault", datetime.fromtimestamp(at, UTC), rank=end.rank, code=end.code, said=end.sentence
            )
        faults.clear()

    @contextmanager
    def of_start(self, step: int, about: Mapping[str, Any], last_step: Callable[[], int]) -> Iterator[None]:
        """Around a training that goes on after `step`; `last_step` says how far it has come."""
        self._note("start", datetime.now(UTC), step=step, **about)
        try:
            yield
        except (PretrainError, OSError) as error:
            code = getattr(error, "exit_code", PretrainError.exit_code)
            with suppress(OSError):  # what the disk refuses once more says nothing new
                self._note("end", datetime.now(UTC), step=last_step(), code=code, said=str(error))
            raise
        self._note("end", datetime.now(UTC), step=last_step(), code=0, said="Finished.")

    def _note(self, event: str, date: datetime, **figures: Any) -> None:
        content = {"event": event, "date": date.isoformat(timespec="seconds"), **figures}
        line = json.dumps(without_secrets(content, self._secrets)) + "\n"
        with open(self._folder.events, "a", encoding="utf-8") as file:
            file.write(line)
