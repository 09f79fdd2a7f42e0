"""A trace of some steps on request, by torch's own profiler.

1. the step before the first one warms the profiler up, where the run has one before it;
2. in the steps that are asked for, every phase that the activity names is a range of the trace;
3. before the step after the last one, or where the run ends first, the trace and a table of the costliest operators are
   written beside each other; each appears whole or not at all.

It draws no random number and computes nothing of its own, so the course is the same in every bit.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerAction, ProfilerActivity, profile, record_function

from pretrain.watch import Activity

_ROWS = 40  # of the table
_NAME_WIDTH = 60


@dataclass(frozen=True)
class ProfileOptions:
    """`ranks` are those that are profiled."""

    from_step: int | None = None
    steps: int = 3
    ranks: Sequence[int] = (0,)
    record_shapes: bool = False

    def action(self, step: int) -> ProfilerAction:
        """What the profiler does in a step."""
        if self.from_step is None or not self.from_step - 1 <= step < self.from_step + self.steps:
            return ProfilerAction.NONE
        if step < self.from_step:
            return ProfilerAction.WARMUP
        return ProfilerAction.RECORD


class Profile:
    """Of this rank; a context that, left, writes what there is. Without a `folder` it does nothing."""

    def __init__(
        self,
        options: ProfileOptions | None = None,
        folder: Path | None = None,
        rank: int = 0,
        activity: Activity | None = None,
    ) -> None:
        options = options or ProfileOptions()
        self._options = options if folder is not None and rank in options.ranks else ProfileOptions()
        self._folder, self._rank, self._activity = folder or Path(), rank, activity
        self._profiler: profile | None = None
        self._recorded: list[int] = []  # the steps that are in the trace
        self._ranges: list[Any] = []  # open ones: the step, and the phase in it

    def before(self, step: int) -> None:
        """The step begins."""
        action = self._options.action(step)
        if self._profiler is None and action == ProfilerAction.NONE:
            return
        self._close_ranges()
        if action == ProfilerAction.NONE:
            self._write()
            return
        if self._profiler is None:
            self._begin(step)
        else:
            self._profiler.step()
        if action == ProfilerAction.RECORD:
            self._recorded.append(step)
            self._open(f"step {step}")

    def close(self) -> None:
        """The run ends, or has come to its last step."""
        self._close_ranges()
        if self._profiler is not None:
            self._write()

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, kind: type[BaseException] | None, *others: object) -> None:
        """After an error, what is in the way of the trace says nothing new."""
        with suppress(*([] if kind is None else [OSError, RuntimeError])):
            self.close()

    def _begin(self, first: int) -> None:
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        options = self._options
        self._profiler = profile(
            activities=activities,
            schedule=lambda index: options.action(first + index),
            record_shapes=options.record_shapes,
        )
        self._profiler.start()
        if self._activity is not None:
            self._activity.tell(self._phase)

    def _phase(self, what: str) -> None:
        """The main thread begins something else."""
        if self._recorded:
            while len(self._ranges) > 1:
                self._ranges.pop().__exit__(None, None, None)
            self._open(what)

    def _open(self, name: str) -> None:
        opened = record_function(name)
        opened.__enter__()
        self._ranges.append(opened)

    def _close_ranges(self) -> None:
        while self._ranges:
            self._ranges.pop().__exit__(None, None, None)

    def _write(self) -> None:
        profiler, steps = self._profiler, self._recorded
        assert profiler is not None
        self._profiler, self._recorded = None, []
        if self._activity is not None:
            self._activity.tell(None)
        profiler.stop()
        if not steps:
            return
        self._folder.mkdir(exist_ok=True)
        name = f"steps-{steps[0]}-{steps[-1]}.rank-{self._rank}"
        # The suffix says to torch that it shall be compressed.
        partial = self._folder / f".{name}.partial.json.gz"
        try:
            profiler.export_chrome_trace(str(partial))
            partial.replace(self._folder / f"{name}.json.gz")
            partial.write_text(self._table(profiler), encoding="utf-8")
            partial.replace(self._folder / f"{name}.txt")
        finally:
            partial.unlink(missing_ok=True)

    def _table(self, profiler: profile) -> str:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        averages = profiler.key_averages()
        table: str = averages.table(
            sort_by=f"self_{device}_time_total", row_limit=_ROWS, max_name_column_width=_NAME_WIDTH
        )
        return table
