"""How `gpu` starts a run: in processes of its own, with a time that it may take at most.

A run that fails, runs out of memory or hangs is not run, says its last words, and leaves the others as they are.
"""

import json
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pretrain.data.store import TokenStore
from tests.benchmarks.gpu_trainer import TrainerRun
from tests.benchmarks.measure import NotRun, Trial
from tests.benchmarks.step_clock import Steps, Timing, trial_of
from tests.benchmarks.text_peers import last_words
from tests.benchmarks.training_ours import OurRun
from tests.benchmarks.training_text import open_samples
from tests.worlds import run_command

WORKERS = 2  # of Trainer's loader
_MOST_WORDS = 300
_LEAST_SECONDS = 15.0  # of a run; with less left none is begun


@dataclass(frozen=True)
class Cell:
    """A model and a row length: rows of a rank's forward pass, and passes a step, for ours and for the peer."""

    preset: str
    seq_len: int
    rows: int
    accumulation: int = 2

    def __str__(self) -> str:
        return f"{self.preset}, {self.seq_len}"


@dataclass(frozen=True)
class Course:
    """What all runs share; `ends` is when the last one must be over, of the monotonic clock."""

    store: Path
    cache: Path
    timing: Timing
    ranks: int
    device: torch.device
    most_seconds: float  # of a run
    ends: float

    def ours(self, cell: Cell, *settings: str, **choices: Any) -> Callable[[int], Trial]:
        """Ours, with attention dropout as everybody has it unless a setting says otherwise."""
        common = (
            f"model.preset={cell.preset}",
            f"data.seq_len={cell.seq_len}",
            "data.objective=mlm",
            f"train.micro_batch={cell.rows}",
            f"train.global_batch={cell.rows * cell.accumulation * self.ranks}",
        )
        run = OurRun((*common, *settings), precision="bf16", **choices)
        return partial(self._measured, "ours", run)

    def theirs(self, cell: Cell, form: str, **choices: Any) -> Callable[[int], Trial]:
        """HF Trainer, as it comes unless choices say otherwise."""
        run = TrainerRun("trainer", form, cell.preset, cell.seq_len, cell.rows, cell.accumulation)
        return partial(self._measured, "trainer", replace(run, precision="bf16", **choices))

    def seconds(self, most: float) -> float:
        """What may be taken now, `most` at most; raises NotRun where the time is over."""
        left = self.ends - time.monotonic()
        if left < _LEAST_SECONDS:
            raise NotRun("the time was over (--minutes)")
        return min(most, left)

    def _measured(self, kind: str, run: OurRun | TrainerRun, number: int) -> Trial:
        if isinstance(run, TrainerRun):  # once, by one
            open_samples(self.cache / "samples", TokenStore.open(self.store), run.form, run.seq_len)
        seconds = self.seconds(self.most_seconds)
        with tempfile.TemporaryDirectory(dir=self.cache, prefix="gpu-") as folder:
            task = {"kind": kind, "run": asdict(run), "timing": asdict(self.timing), "store": str(self.store)}
            task |= {"samples": str(self.cache / "samples"), "output": folder}
            (Path(folder) / "task.json").write_text(json.dumps(task))
            launcher = [sys.executable]
            if kind == "ours" or self.ranks > 1:
                launcher += ["-m", "torch.distributed.run", "--standalone"]
                launcher += [f"--nproc-per-node={self.ranks}"]
            launched([*launcher, "-m", "tests.benchmarks.gpu_rank", f"{folder}/task.json"], seconds, folder)
            files = sorted(Path(folder).glob("rank-*.json"))
            return trial_of([Steps(**json.loads(file.read_text())) for file in files])


def launched(command: Sequence[str], seconds: float, folder: Path | str) -> str:
    """What a command prints. Raises NotRun with what a rank left in `folder` as its error, else with its last words;
    it and all that it has started are killed past `seconds`."""
    try:
        done = run_command(command, timeout=seconds)
    except AssertionError as error:  # with all that it had written
        raise NotRun(
            f'it ran past {seconds:.0f} s; last it said "{shortened(last_words(str(error)))}"'
        ) from None
    if done.returncode != 0:
        errors = sorted(Path(folder).glob("error-*.txt"))
        raise NotRun(shortened(errors[0].read_text() if errors else last_words(done.stderr)))
    return done.stdout


def shortened(words: str) -> str:
    """On one line, and no longer than a line or two."""
    return textwrap.shorten(words, _MOST_WORDS, placeholder=" ...")
