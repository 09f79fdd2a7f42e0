"""The learning rate of each optimizer step: warm-up, then decay."""

from dataclasses import dataclass
from math import cos, log, pi
from typing import Literal

ScheduleName = Literal[
    "linear", "polynomial", "nvidia-polynomial", "cosine", "step", "exponential", "constant"
]
WarmupShape = Literal["linear", "quadratic", "log"]


@dataclass(frozen=True)
class Schedule:
    """Warm-up to `peak_lr` over `warmup_steps`, then decay towards `end_lr`: end + (peak - end) * factor.

    - linear: the factor falls in a straight line, to 0 at `total_steps`.
    - polynomial: (1 - progress)^power, progress counted from the end of warm-up, so the rate is continuous.
    - nvidia-polynomial: progress counted from step 0, as in NVIDIA's BERT recipe: the rate drops where
      warm-up ends (by 15% at its 28% warm-up). For reproducing that recipe only.
    - cosine: (1 + cos(pi * progress)) / 2 (Loshchilov and Hutter 2017, without restarts).
    - step: times `decay_rate` at every `decay_steps` steps after warm-up.
    - exponential: decay_rate^(steps after warm-up / decay_steps), as DeepSpeed's BERT recipe decays.
    - constant: 1.

    The shapes of warm-up, by x = (step + 1) / warmup_steps: linear x; quadratic x^2, as DeepSpeed's BERT recipe
    (its schedule "EE"); log: log(step + 1) / log(warmup_steps), as DeepSpeed's `WarmupLR` of type "log".
    """

    name: ScheduleName
    peak_lr: float
    total_steps: int
    warmup_steps: int
    power: float = 1.0
    end_lr: float = 0.0
    decay_rate: float = 1.0
    decay_steps: int = 1
    warmup_shape: WarmupShape = "linear"
    warmup_share: float | None = (
        None  # of the run at the end of warm-up, where shares are no shares of the steps
    )

    def __call__(self, step: int, share: float | None = None) -> float:
        """The rate of the step that follows `step` finished ones; the first step has `step` 0.

        `share`: how much of the run is done, where that is counted otherwise than by step / total_steps.
        Warm-up and the schedules by `decay_steps` go by steps all the same.
        """
        if step < self.warmup_steps:
            return self.peak_lr * self._warmup_factor(step)
        return self.end_lr + (self.peak_lr - self.end_lr) * self._decay_factor(step, share)

    def _warmup_factor(self, step: int) -> float:
        part = (step + 1) / self.warmup_steps
        if self.warmup_shape == "log" and self.warmup_steps > 1:
            return log(step + 1) / log(self.warmup_steps)
        return part**2 if self.warmup_shape == "quadratic" else part

    def _decay_factor(self, step: int, share: float | None) -> float:
        periods = (step - self.warmup_steps) / self.decay_steps
        match self.name:
            case "constant":
                return 1.0
            case "step":
                return self.decay_rate ** int(periods)
            case "exponential":
                return self.decay_rate**periods
        progress = min(1.0, max(0.0, self._progress(step, share)))
        match self.name:
            case "cosine":
                return (1 + cos(pi * progress)) / 2
            case "linear":
                return 1.0 - progress
        remaining = 1.0 - progress
        return float(remaining**self.power)

    def _progress(self, step: int, share: float | None) -> float:
        """Of the decay: 0 where it begins, 1 at the end of the run."""
        if self.name == "nvidia-polynomial":
            return step / self.total_steps if share is None else share
        if share is None:
            return (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        by_steps = min(1.0, self.warmup_steps / self.total_steps)
        warmed_up = by_steps if self.warmup_share is None else self.warmup_share
        return (share - warmed_up) / (1 - warmed_up) if warmed_up < 1 else 1.0
