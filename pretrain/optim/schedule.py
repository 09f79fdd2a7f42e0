"""The learning rate of each optimizer step: warm-up, then decay."""

from dataclasses import dataclass
from typing import Literal

ScheduleName = Literal["linear", "polynomial", "nvidia-polynomial"]


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to `peak_lr` over `warmup_steps`, then decay to `end_lr` at `total_steps`.

    - linear: in a straight line.
    - polynomial: by (1 - progress)^power, progress counted from the end of warm-up, so the rate is continuous.
    - nvidia-polynomial: progress counted from step 0, as in NVIDIA's BERT recipe: the rate drops where
      warm-up ends (by 15% at its 28% warm-up). For reproducing that recipe only.
    """

    name: ScheduleName
    peak_lr: float
    total_steps: int
    warmup_steps: int
    power: float = 1.0
    end_lr: float = 0.0

    def __call__(self, step: int) -> float:
        """The rate of the step that follows `step` finished ones; the first step has `step` 0."""
        if step < self.warmup_steps:
            return self.peak_lr * (step + 1) / self.warmup_steps
        if self.name == "nvidia-polynomial":
            progress = step / self.total_steps
        else:
            progress = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        remaining = max(0.0, 1.0 - progress)
        power = 1.0 if self.name == "linear" else self.power
        return self.end_lr + (self.peak_lr - self.end_lr) * remaining**power
