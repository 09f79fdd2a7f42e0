"""The judge: the course in one plain process that knows no engine, no sharding and none of our optimizers.

It shares with the framework the rows and the model's forward pass, nothing else: one forward over the global
batch, losses divided by counts of its own, LAMB and AdamW straight from the papers on whole parameters, clipping
and learning rate by hand.
"""

from pathlib import Path

import torch
from torch import Tensor

from pretrain.build import row_stream
from pretrain.data.order import Cursor
from pretrain.data.store import TokenStore
from tests.numerics.outcome import Outcome
from tests.numerics.recipe import (
    BETA1,
    BETA2,
    EPS,
    GLOBAL_BATCH,
    MAX_GRAD_NORM,
    SEED,
    WEIGHT_DECAY,
    Setting,
    make_model,
)


def plain_course(
    folder: Path,
    setting: Setting,
    dtype: torch.dtype,
    compute: torch.dtype | None = None,
    trust_ratios: list[dict[str, float]] | None = None,
) -> Outcome:
    """The course with master weights, moments and sums of `dtype`; the model itself in `compute`, if another.

    What the setting freezes stays as it was. Each step's trust ratios, by the name of the parameter, are appended to
    `trust_ratios`.
    """
    store = TokenStore.open(folder / "store")
    model = make_model(store, folder, frozen=setting.frozen).to(compute or dtype)
    computing = {name: weight for name, weight in model.encoder.named_parameters() if weight.requires_grad}
    fresh = dict(make_model(store, folder).encoder.named_parameters())
    weights = {name: fresh[name].detach().to(dtype) for name in computing}
    kept = {name: weight.detach().to(dtype) for name, weight in fresh.items() if name not in computing}
    moments = {name: (torch.zeros_like(w), torch.zeros_like(w)) for name, w in weights.items()}
    stream = row_stream(store, "train", setting.sampling, SEED)
    cursor, losses, norms = Cursor(0, 0, 0), [], []
    for step in range(1, setting.steps + 1):
        rows = stream.step(cursor, GLOBAL_BATCH)
        batch, cursor = rows.batch(0, GLOBAL_BATCH), rows.next_cursor
        mlm_sum, nsp_sum = model(batch)
        loss = mlm_sum / (batch.masked_labels >= 0).sum() + nsp_sum / (batch.nsp_labels >= 0).sum()
        loss.backward()
        gradients = {name: _taken(weight).to(dtype) for name, weight in computing.items()}
        norm = float(torch.cat([gradient.flatten() for gradient in gradients.values()]).double().norm())
        ratios: dict[str, float] = {}
        for name, weight in weights.items():
            gradient = gradients[name] * min(1.0, MAX_GRAD_NORM / norm)
            direction = _adam(gradient, *moments[name], step)
            update = direction + (WEIGHT_DECAY if weight.dim() > 1 else 0.0) * weight
            ratios[name] = _trust(weight, update) if setting.optimizer == "lamb" else 1.0
            weight -= learning_rate(setting, step) * ratios[name] * update
            computing[name].detach().copy_(weight)
        losses.append(loss.item())
        norms.append(norm)
        if trust_ratios is not None:
            trust_ratios.append(ratios)
    return Outcome(losses, norms, weights | kept)


def learning_rate(setting: Setting, step: int) -> float:
    """Of the step with this number, from 1: up in a straight line, then down to 0 after the last step."""
    warmup = setting.warmup_steps
    if step <= warmup:
        return setting.peak_lr * step / warmup
    return setting.peak_lr * (setting.steps + 1 - step) / (setting.steps - warmup)


def _taken(weight: torch.nn.Parameter) -> Tensor:
    gradient, weight.grad = weight.grad, None
    assert gradient is not None
    return gradient


def _adam(gradient: Tensor, first: Tensor, second: Tensor, step: int) -> Tensor:
    """Kingma and Ba 2015, Algorithm 1, without the step itself."""
    first.copy_(BETA1 * first + (1 - BETA1) * gradient)
    second.copy_(BETA2 * second + (1 - BETA2) * gradient**2)
    return (first / (1 - BETA1**step)) / ((second / (1 - BETA2**step)).sqrt() + EPS)


def _trust(weight: Tensor, update: Tensor) -> float:
    """You et al. 2020, Algorithm 2, with phi the identity."""
    weight_norm, update_norm = float(weight.double().norm()), float(update.double().norm())
    return weight_norm / update_norm if weight_norm > 0 and update_norm > 0 else 1.0
