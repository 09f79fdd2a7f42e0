"""The gradient noise scale: up to which global batch a larger one still saves steps (McCandlish et al. 2018,
arXiv 1812.06162, section 2.2 and appendix A.1).

B_simple = tr(Sigma) / |G|^2, with G the true gradient and Sigma the covariance of the gradient of one row. A batch of
B rows has a gradient of expected square |G|^2 + tr(Sigma) / B, so the norms of two batches of unlike size give both:

1. each measurement gives an unbiased estimate of |G|^2 and one of tr(Sigma), which the paper calls S;
2. both are averaged over the measurements, each apart, newer ones with more weight;
3. the ratio of the averages is the noise scale. It is not unbiased, as no ratio is, and better the more is averaged.

B is counted in rows, in both batches and in the result. The formulas are exact for means over rows. The loss is a mean
over masked tokens and one over sentence pairs, so rows with more of them weigh more and the estimate is approximate:
in the means of few rows the counts vary, in those of a global batch hardly.
"""

from dataclasses import dataclass, replace

DECAY = 0.95  # of a measurement's weight with each later one: the mean is over the last 20 or so


@dataclass(frozen=True)
class NoiseEstimate:
    """Of one measurement; both are unbiased, and so either may be negative."""

    squared_gradient: float  # |G|^2
    trace: float  # tr(Sigma), of the gradient of one row


def noise_estimate(small_norm: float, small_rows: int, large_norm: float, large_rows: int) -> NoiseEstimate:
    """From the gradient norms of two batches, of fewer and of more rows (appendix A.1).

    The larger batch may hold the smaller one: only expectations count.
    """
    small, large = small_norm**2, large_norm**2
    return NoiseEstimate(
        squared_gradient=(large_rows * large - small_rows * small) / (large_rows - small_rows),
        trace=(small - large) / (1 / small_rows - 1 / large_rows),
    )


@dataclass(frozen=True)
class NoiseState:
    """The averages, as a checkpoint keeps them: a run that goes on averages as if it had never stopped."""

    measurements: int = 0
    squared_gradient: float = 0.0
    trace: float = 0.0

    def with_estimate(self, estimate: NoiseEstimate) -> "NoiseState":
        """The averages with one more measurement: exponential ones, corrected for their beginning at 0."""
        count = self.measurements + 1
        weight = (1 - DECAY) / (1 - DECAY**count)
        return replace(
            self,
            measurements=count,
            squared_gradient=self.squared_gradient
            + weight * (estimate.squared_gradient - self.squared_gradient),
            trace=self.trace + weight * (estimate.trace - self.trace),
        )

    @property
    def noise_scale(self) -> float | None:
        """In rows; None while the averages are too noisy for one, which a part that is not positive shows."""
        if self.squared_gradient <= 0 or self.trace <= 0:
            return None
        return self.trace / self.squared_gradient


class NoiseScale:
    """The averages of a run. Every rank has them and is told the same."""

    def __init__(self) -> None:
        self._state = NoiseState()

    @property
    def state(self) -> NoiseState:
        return self._state

    def restore(self, saved: NoiseState | None) -> None:
        """Takes a checkpoint's averages, if it has any."""
        self._state = saved or NoiseState()

    def update(self, estimate: NoiseEstimate) -> None:
        """Counts one measurement."""
        self._state = self._state.with_estimate(estimate)
