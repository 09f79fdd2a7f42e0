"""AdamW (Loshchilov and Hutter 2019, Algorithm 2) over slices."""

from dataclasses import dataclass

from pretrain.optim.moments import AdamOptions, LocalSlices, ParameterFigures
from pretrain.optim.passes import passes_for


@dataclass(frozen=True)
class AdamWOptions(AdamOptions):
    """Hyper-parameters of AdamW."""

    def apply(self, local: LocalSlices, lr: float, step: int) -> ParameterFigures:
        """w <- w - lr * (m_hat / (sqrt(v_hat) + eps) + decay * w); the gradients may be overwritten. No figures."""
        passes_for(local).step_by_directions(local, self, lr, step)
        return {}
