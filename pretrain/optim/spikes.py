"""Which gradients are outliers: a batch whose norm stands far above those before it is better left out.

One bad batch at a high rate can cost a run what thousands of steps gave it (Chowdhery et al. 2022, arXiv 2204.02311,
section 5.1, restart before such batches and skip them). The median of the last norms does not move with one of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from pretrain.optim.skipping import Skip


@dataclass(frozen=True)
class SpikeRule:
    """A norm above `factor` times the median of the last `window` norms is a spike.

    Nothing is one before that many are known. They are norms of steps that updated the weights: a spike is no measure
    of the next. So a lasting change is one spike after another, and the loop ends a run that has too many in a row.
    """

    factor: float
    window: int

    def found(self, norm: float, recent: Sequence[float]) -> Skip | None:
        """Whether a finite norm after the `recent` ones is a spike."""
        if len(recent) < self.window:
            return None
        usual = median(recent[-self.window :])
        if norm <= self.factor * usual:
            return None
        median_of = f"{usual:.4g}, the median of the last {self.window} updates"
        return Skip("spike", f"gradient norm {norm:.4g} is over {self.factor:g} times {median_of}")

    def remembered(self, norm: float, recent: Sequence[float]) -> list[float]:
        """The last norms with this one, of a step that updated the weights."""
        return [*recent, norm][-self.window :]
