"""What faults are tried on: a folder, a tiny store and model in it, and the script that starts a training."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pretrain.faults.tiny import write_model, write_tiny_store

T = TypeVar("T")
SEQ_LEN = 32
NUM_DOCUMENTS = 60
# Detection is promised within this and five seconds.
WATCH_SECONDS = 3.0


@dataclass(frozen=True)
class Way:
    """Under what a run trains."""

    backend: str
    stage: int
    bf16: bool = False
    cut: tuple[int, int] | None = (
        None  # rows of a micro-batch and accumulation, where the engine config says them
    )

    def __str__(self) -> str:
        return f"{self.backend} stage {self.stage} in {'bf16' if self.bf16 else 'fp32'}"


class Bench:
    """`folder` holds everything that is written; `in_full`: all of a row's tries, not a sample of them."""

    def __init__(self, folder: Path, launch: Path, in_full: bool) -> None:
        self.folder = folder
        self.launch = launch
        self.in_full = in_full
        self._made: dict[Any, Any] = {}

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """What several rows share, made when the first of them asks."""
        if key not in self._made:
            self._made[key] = make()
        found: T = self._made[key]
        return found

    def new_folder(self, name: str) -> Path:
        """An empty one; never one that was given before."""
        number = len(list(self.folder.glob(f"{name}-*")))
        path = self.folder / f"{name}-{number:03d}"
        path.mkdir(parents=True)
        return path

    @cached_property
    def store(self) -> Path:
        """A small token store, written by the real writer."""
        path = self.folder / "store"
        write_tiny_store(path, NUM_DOCUMENTS)
        return path

    @cached_property
    def model(self) -> Path:
        return write_model(self.folder / "model.json", SEQ_LEN)

    def arguments(self, steps: int, *more: str) -> list[str]:
        """Of `launch/pretrain.py`: a run of so many small steps, dropout on."""
        return self.arguments_without_batch(steps, "train.global_batch=12", *more)

    def arguments_without_batch(self, steps: int, *more: str) -> list[str]:
        """The same where the engine config says the batch."""
        return [
            f"--data={self.store}",
            f"model.config={self.model}",
            f"data.seq_len={SEQ_LEN}",
            "model.dropout=0.1",
            "eval.rows=8",
            f"train.steps={steps}",
            f"watch.seconds={WATCH_SECONDS}",
            *more,
        ]

    def engine(self, way: Way) -> str:
        """The option with an engine config of this stage and precision."""
        path = self.folder / f"zero{way.stage}{'-bf16' * way.bf16}{'-cut' * (way.cut is not None)}.json"
        config: dict[str, Any] = {"zero_optimization": {"stage": way.stage}, "bf16": {"enabled": way.bf16}}
        if way.cut is not None:
            config["train_micro_batch_size_per_gpu"], config["gradient_accumulation_steps"] = way.cut
        path.write_text(json.dumps(config))
        return f"--ds_config={path}"

    def sample(self, everything: Sequence[T], count: int) -> Sequence[T]:
        """All in full, else the first `count`."""
        return everything if self.in_full else everything[:count]
