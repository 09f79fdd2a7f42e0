"""The end of a run: the last validation, and the model folder from its last checkpoint or its best."""

from dataclasses import dataclass
from pathlib import Path

from pretrain import checkpoint
from pretrain.backends.base import Backend
from pretrain.evaluate import Evaluator
from pretrain.metrics import MetricsWriter, Terminal
from pretrain.optim import Progress, RunLength
from pretrain.run_folder import RunFolder
from pretrain.watch import Activity
from pretrain.watch.activity import ENDING


@dataclass(frozen=True)
class Ending:
    """What the end needs; `writer` is there on rank 0."""

    folder: RunFolder
    backend: Backend
    evaluator: Evaluator | None
    writer: MetricsWriter | None
    terminal: Terminal
    tokenizer: Path
    activity: Activity

    def reach(self, done: Progress, length: RunLength) -> None:
        """Validates, with the context shuffled too, and exports; collective. The last checkpoint is committed."""
        self.terminal.end()
        self.activity.now("validating")
        self._validate(done)
        self.activity.now(ENDING)
        if self.writer is None:
            return
        newest, model = checkpoint.find_checkpoint(self.folder.checkpoints), "model"
        if length.patience is not None:
            best = checkpoint.find_best(self.folder.checkpoints)
            if best is not None and newest is not None and best.name != newest.name:
                newest, model = best, f"model of {best.name}, which validated best"
        if newest is None:
            return
        checkpoint.export_model(newest, self.tokenizer, self.folder.model)
        self.folder.mark_finished(done.steps)
        self.terminal.say(
            f"Done: {done.steps} steps, by {length.reached(done)}. Hugging Face {model}: {self.folder.model}"
        )

    def _validate(self, done: Progress) -> None:
        if self.evaluator is None:
            self.terminal.say("No validation: the store's held-out split has too few documents.")
            return
        record = self.evaluator.run(self.backend, done.steps, shuffled=True)
        self.terminal.summary(record)
        if self.writer is None:
            return
        self.writer.evaluation(record)
