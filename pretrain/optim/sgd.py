"""SGD with momentum (Sutskever et al. 2013) over slices, as `torch.optim.SGD` without dampening."""

from dataclasses import dataclass

import torch

from pretrain.optim.moments import LocalSlices, ParameterFigures


@dataclass(frozen=True)
class SgdOptions:
    """Hyper-parameters of SGD. Decay is added to the gradient (L2), after clipping."""

    momentum: float = 0.9
    nesterov: bool = False

    @property
    def moment_kinds(self) -> tuple[str, ...]:
        return ("momentum_buffer",) if self.momentum else ()

    def apply(self, local: LocalSlices, lr: float, step: int) -> ParameterFigures:
        """g <- g + decay * w; b <- momentum * b + g; w <- w - lr * (b, or g + momentum * b with nesterov).

        The gradients are overwritten. No figures.
        """
        if not local.slices:  # a rank that holds nothing but padding
            return {}
        weights, gradients = local.weights.views, local.gradients
        for weight, gradient, decay in zip(weights, gradients, local.decays, strict=True):
            if decay:
                gradient.add_(weight, alpha=decay)
        if not self.momentum:
            torch._foreach_add_(weights, gradients, alpha=-lr)
            return {}
        buffers = local.moments["momentum_buffer"].views
        torch._foreach_mul_(buffers, self.momentum)
        torch._foreach_add_(buffers, gradients)
        torch._foreach_add_(weights, buffers, alpha=-lr * (self.momentum if self.nesterov else 1.0))
        if self.nesterov:
            torch._foreach_add_(weights, gradients, alpha=-lr)
        return {}
