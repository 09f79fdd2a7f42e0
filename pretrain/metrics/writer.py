"""metrics.jsonl, eval.jsonl and TensorBoard."""

import json
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from pretrain.metrics.records import EvalRecord, StepRecord


class MetricsWriter:
    """Appends records; each line reaches the file at once, so that a kill loses none.

    A run that continues from `finished_steps` first drops the lines of later steps, which are made again.
    """

    def __init__(
        self, metrics: Path, evaluations: Path, tensorboard: Path, finished_steps: int, log_every: int
    ) -> None:
        _keep_lines(metrics, finished_steps)
        _keep_lines(evaluations, finished_steps)
        self._metrics = open(metrics, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - closed by close()
        self._evaluations = open(evaluations, "a", encoding="utf-8", buffering=1)  # noqa: SIM115
        self._board = SummaryWriter(tensorboard, purge_step=finished_steps + 1)
        self._log_every = log_every

    def step(self, record: StepRecord) -> None:
        """One optimizer step."""
        self._metrics.write(_line(asdict(record)))
        if record.step % self._log_every == 0:
            for name in (
                "loss",
                "mlm_loss",
                "nsp_loss",
                "lr",
                "grad_norm",
                "loss_scale",
                "tokens_per_second",
                "mfu",
            ):
                value = getattr(record, name)
                if value is not None:
                    self._board.add_scalar(f"train/{name}", value, record.step)

    def evaluation(self, record: EvalRecord) -> None:
        """One validation."""
        content = asdict(record)
        self._evaluations.write(_line(content))
        for name, value in content.items():
            if name != "step" and value is not None:
                self._board.add_scalar(f"heldout/{name}", value, record.step)

    def close(self) -> None:
        """Ends all files."""
        self._metrics.close()
        self._evaluations.close()
        self._board.close()


def _line(content: dict[str, Any]) -> str:
    """One JSON object; what is not finite has no place in JSON and becomes null."""
    finite = {
        key: None if isinstance(value, float) and not isfinite(value) else value
        for key, value in content.items()
    }
    return json.dumps(finite, allow_nan=False) + "\n"


def _keep_lines(path: Path, finished_steps: int) -> None:
    """Drops lines of steps after `finished_steps`, and a last line that a kill cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            step = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            continue
        if step <= finished_steps:
            kept.append(line + "\n")
    partial = path.with_suffix(".partial")
    partial.write_text("".join(kept), encoding="utf-8")
    partial.replace(path)
