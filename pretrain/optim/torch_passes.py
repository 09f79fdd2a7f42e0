"""A step's passes (`pretrain.optim.passes.Passes`) by torch's own operations, for any device."""

import torch

from pretrain.optim.moments import AdamOptions, LocalSlices


def write_updates(local: LocalSlices, options: AdamOptions, step: int) -> torch.Tensor:
    updates = _directions(local, options, step)
    for weight, update, decay in zip(local.weights.views, updates, local.decays, strict=True):
        if decay:
            update.add_(weight, alpha=decay)
    partial = local.layout.partial_squared_norms
    return torch.stack([partial(local.weights), partial(local.raw_gradients)])


def subtract_updates(local: LocalSlices, rates: torch.Tensor) -> None:
    own = rates.to(local.layout.dtype).unbind()
    views = zip(local.weights.views, local.raw_gradients.views, local.slices, strict=True)
    for weight, update, piece in views:
        weight.addcmul_(update, own[piece.parameter], value=-1)


def step_by_directions(local: LocalSlices, options: AdamOptions, lr: float, step: int) -> None:
    directions = _directions(local, options, step)
    for weight, direction, decay in zip(local.weights.views, directions, local.decays, strict=True):
        if decay:
            weight.mul_(1 - lr * decay)
        weight.add_(direction, alpha=-lr)


def _directions(local: LocalSlices, options: AdamOptions, step: int) -> list[torch.Tensor]:
    """Updates the moments in place; the directions are written over the gradients."""
    if not local.slices:  # a rank that holds nothing but padding
        return []
    gradients, first, second = local.gradients, local.exp_avg.views, local.exp_avg_sq.views
    torch._foreach_lerp_(first, gradients, 1 - options.beta1)
    torch._foreach_mul_(second, options.beta2)
    torch._foreach_addcmul_(second, gradients, gradients, 1 - options.beta2)
    correction1, correction2 = options.corrections(step)
    for direction, exp_avg, exp_avg_sq in zip(gradients, first, second, strict=True):
        torch.sqrt(exp_avg_sq, out=direction)
        direction.div_(correction2).add_(options.eps)
        torch.div(exp_avg, direction, out=direction)
        direction.div_(correction1)
    return gradients
