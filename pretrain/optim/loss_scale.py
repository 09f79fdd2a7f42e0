"""The loss scale of fp16 training: the factor that keeps small gradients above fp16's smallest numbers.

The rule is that of DeepSpeed's `DynamicLossScaler` (deepspeed/runtime/fp16/loss_scaler.py, taken from Megatron-LM),
under both engines; Micikevicius et al. 2018 (arXiv 1710.03740, section 3.2) is where it comes from:

- a step whose gradient is not finite is skipped, and the scale is halved, down to `min_scale`. With a hysteresis of
  h the first h - 1 such steps are skipped without it;
- a good step with a positive multiple of `window` good steps before it, counted from the last bad one, doubles
  the scale and restores the hysteresis.

A step that is skipped for another reason has a finite gradient, and is a good one here.
"""

from dataclasses import dataclass

FACTOR = 2.0
MAX_SCALE = 2.0**126  # its inverse is the smallest normal float32


@dataclass(frozen=True)
class LossScaleOptions:
    """`initial_scale`, for ever if not `dynamic`; else the rule's constants."""

    initial_scale: float = 1.0
    dynamic: bool = False
    window: int = 1000
    hysteresis: int = 1
    refill_hysteresis: bool = False  # after every good step, not only where the scale grows
    min_scale: float = 1.0


@dataclass(frozen=True)
class LossScaleState:
    """What a checkpoint keeps, so that a run that goes on skips and scales as if it had never stopped."""

    scale: float
    good_steps: int  # since the last overflow
    hysteresis_left: int
    lost_steps: int  # in a row that overflowed at the lowest scale


class LossScaler:
    """The scale of the next step. Every rank has one and tells it the same, so all have the same scale."""

    def __init__(self, options: LossScaleOptions | None = None) -> None:
        """Without options the scale is 1 for ever, as fp32 and bf16 need it."""
        self._options = options or LossScaleOptions()
        self.is_needed = options is not None
        self._state = LossScaleState(self._options.initial_scale, 0, self._options.hysteresis, 0)

    @property
    def scale(self) -> float:
        return self._state.scale

    @property
    def lost_steps(self) -> int:
        """How many steps overflowed in a row although the scale was as low as it may be."""
        return self._state.lost_steps

    @property
    def state(self) -> LossScaleState:
        return self._state

    def restore(self, saved: LossScaleState | None) -> None:
        """Takes a checkpoint's state; what it lacks, or the options rule out, is as at the start of a run."""
        options = self._options
        if saved is None or not options.dynamic:
            return
        self._state = LossScaleState(
            max(saved.scale, options.min_scale),
            saved.good_steps,
            min(saved.hysteresis_left, options.hysteresis),
            saved.lost_steps,
        )

    def update(self, *, overflow: bool) -> None:
        """Counts a global step, once."""
        self._state = self._after_overflow() if overflow else self._after_good()

    def _after_overflow(self) -> LossScaleState:
        options, now = self._options, self._state
        lowest = not options.dynamic or now.scale <= options.min_scale
        lost = now.lost_steps + 1 if lowest else 0
        if not options.dynamic:
            return LossScaleState(now.scale, 0, now.hysteresis_left, lost)
        if now.hysteresis_left > 1:
            return LossScaleState(now.scale, 0, now.hysteresis_left - 1, lost)
        return LossScaleState(max(now.scale / FACTOR, options.min_scale), 0, now.hysteresis_left, lost)

    def _after_good(self) -> LossScaleState:
        options, now = self._options, self._state
        grows = options.dynamic and now.good_steps > 0 and now.good_steps % options.window == 0
        scale = min(now.scale * FACTOR, MAX_SCALE) if grows else now.scale
        refilled = grows or options.refill_hysteresis
        hysteresis = options.hysteresis if refilled else now.hysteresis_left
        return LossScaleState(scale, now.good_steps + 1, hysteresis, 0)
