"""metrics.jsonl, eval.jsonl, ranks.jsonl, samples.jsonl where it is asked for, and TensorBoard."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any, TextIO

from torch.utils.tensorboard import SummaryWriter

from pretrain.metrics.ranks import hosts_line, ranks_line
from pretrain.metrics.records import EvalRecord, RanksRecord, StepRecord


class MetricsWriter:
    """Appends records; each line reaches the file at once, so that a kill loses none. A context that closes itself.

    A run that continues from `finished_steps` first drops the lines of later steps, which are made again. What the disk
    refuses is an OSError that names the file.
    """

    def __init__(
        self,
        metrics: Path,
        evaluations: Path,
        samples: Path,
        tensorboard: Path,
        finished_steps: int,
        log_every: int,
        ranks: Path | None = None,
    ) -> None:
        """`ranks`: where ranks.jsonl lies; None where no hosts and no ranks will be written."""
        for path in (metrics, evaluations, samples, *([] if ranks is None else [ranks])):
            _keep_lines(path, finished_steps)
        self._metrics, self._evaluations = _appending(metrics), _appending(evaluations)
        self._samples_path = samples
        self._samples: TextIO | None = None
        self._ranks = None if ranks is None else _appending(ranks)
        self._board = SummaryWriter(tensorboard, purge_step=finished_steps + 1)
        self._log_every = log_every
        self.last_step = finished_steps

    def step(self, record: StepRecord) -> None:
        """One optimizer step."""
        self.last_step = record.step
        content = asdict(record)
        reason, noise = content.pop("skipped_because"), content.pop("noise") or {}
        _write(self._metrics, content | ({} if reason is None else {"skipped_because": reason}) | noise)
        self._add_scalars("train", noise, record.step)
        if record.step % self._log_every == 0:
            for name in (
                "loss",
                "mlm_loss",
                "nsp_loss",
                "lr",
                "grad_norm",
                "loss_scale",
                "global_batch",
                "tokens_per_second",
                "mfu",
                "data_wait",
            ):
                value = getattr(record, name)
                if value is not None:
                    self._board.add_scalar(f"train/{name}", value, record.step)

    def hosts(self, hosts: Sequence[str]) -> None:
        """Of all ranks, before the first of their lines."""
        if self._ranks is not None:
            _write(self._ranks, hosts_line(self.last_step, hosts))

    def ranks(self, record: RanksRecord) -> None:
        """The ranks over some steps."""
        if self._ranks is None:
            return
        line = ranks_line(record)
        _write(self._ranks, line)
        figures = {"data_wait_max": line["data_wait"], "slowest_rank": line["slowest_rank"]}
        self._add_scalars("ranks", figures | {"slowest_to_median": line["to_median"]}, record.step)
        self._add_scalars("memory", {**record.memory, "peak_bytes_max": max(record.peak_bytes)}, record.step)

    def parameters(self, step: int, figures: Mapping[str, Mapping[str, float]]) -> None:
        """By kind and parameter, what an optimizer step was for each parameter; and the mean of each kind."""
        for kind, by_name in figures.items():
            for name, value in by_name.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)
            if by_name:
                self._board.add_scalar(f"parameters/{kind}_mean", sum(by_name.values()) / len(by_name), step)

    def samples(self, step: int, names: Sequence[str]) -> None:
        """The samples of one optimizer step, in the order of its rows."""
        if self._samples is None:
            self._samples = _appending(self._samples_path)
        _write(self._samples, {"step": step, "samples": list(names)})

    def evaluation(self, record: EvalRecord) -> None:
        """One validation; another one after the same step is superseded."""
        content = asdict(record)
        stores = content.pop("stores")
        if self.has_evaluation(record.step):
            path = Path(self._evaluations.name)
            self._evaluations.close()
            _keep_lines(path, record.step - 1)
            self._evaluations = _appending(path)
        _write(self._evaluations, content | ({} if stores is None else {"stores": stores}))
        self._add_scalars("heldout", content, record.step)
        for name, figures in (stores or {}).items():
            self._add_scalars(f"heldout {name}", figures, record.step)

    def has_evaluation(self, step: int) -> bool:
        """Whether eval.jsonl has a validation after this step."""
        with open(self._evaluations.name, encoding="utf-8") as lines:
            return any(json.loads(line)["step"] == step for line in lines)

    def _add_scalars(self, group: str, figures: Mapping[str, Any], step: int) -> None:
        """Into TensorBoard, all that is known."""
        for name, value in figures.items():
            if name != "step" and value is not None:
                self._board.add_scalar(f"{group}/{name}", value, step)

    def close(self) -> None:
        """Ends all files."""
        for file in (self._metrics, self._evaluations, self._samples, self._ranks):
            if file is not None:
                file.close()
        self._board.close()

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *others: object) -> None:
        """After an error, what the disk refuses once more says nothing new."""
        with suppress(*([] if kind is None else [OSError])):
            self.close()


def _appending(path: Path) -> TextIO:
    return open(path, "a", encoding="utf-8", buffering=1)


def _write(file: TextIO, content: dict[str, Any]) -> None:
    try:
        file.write(_line(content))
    except OSError as error:
        error.filename = file.name
        raise


def _line(content: dict[str, Any]) -> str:
    """One JSON object; what is not finite has no place in JSON and becomes null."""
    return json.dumps(_finite(content), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not isfinite(value) else value


def _keep_lines(path: Path, finished_steps: int) -> None:
    """Drops lines of steps after `finished_steps`, and a last line that a kill cut short; one line in memory."""
    if not path.exists():
        return
    partial = path.with_suffix(".partial")
    with (
        open(path, encoding="utf-8", errors="replace") as lines,
        open(partial, "w", encoding="utf-8") as kept,
    ):
        for line in lines:
            try:
                step = json.loads(line)["step"]
            except (ValueError, KeyError, TypeError):
                continue
            if step <= finished_steps:
                kept.write(line.rstrip("\n") + "\n")
    partial.replace(path)
