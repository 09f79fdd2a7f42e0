"""AdamW (Loshchilov and Hutter 2019, Algorithm 2) over slices."""

from dataclasses import dataclass

from pretrain.optim.moments import AdamOptions, LocalSlices, adam_directions


@dataclass(frozen=True)
class AdamWOptions(AdamOptions):
    """Hyper-parameters of AdamW."""

    def apply(self, local: LocalSlices, lr: float, step: int) -> None:
        """w <- w - lr * (m_hat / (sqrt(v_hat) + eps) + decay * w); the gradients are overwritten."""
        directions = adam_directions(local, self, step)
        for weight, direction, decay in zip(local.weights, directions, local.decays, strict=True):
            if decay:
                weight.mul_(1 - lr * decay)
            weight.add_(direction, alpha=-lr)
