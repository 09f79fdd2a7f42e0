"""The optimizer that engines hold: one step over the local shards, the same under every backend.

An engine cuts the weights first and calls `step()` later, so the optimizer is made empty, bound to the
`ShardLayout` once the engine exists, and told rate and norm before each step:

    bind(layout) -> begin(lr) -> [engine calls step(), once or once per sub-group] -> finish()
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import isfinite, isnan

import torch

from pretrain.optim.adamw import AdamWOptions
from pretrain.optim.decay import decay_of
from pretrain.optim.lamb import LambOptions
from pretrain.optim.moments import LocalSlices, ParameterFigures
from pretrain.optim.spikes import SpikeRule
from pretrain.sharding import Shard, ShardLayout


@dataclass
class _Pending:
    """What one optimizer step knows before the engine applies it."""

    lr: float
    grad_norm: torch.Tensor | None
    stepped: set[int] = field(default_factory=set)
    judged: bool = False  # whether the norm was held against the last ones
    figures: ParameterFigures = field(default_factory=dict)


class ShardedOptimizer(torch.optim.Optimizer):
    """LAMB or AdamW over the slices of a `ShardLayout`, with clipping by the one global gradient norm.

    There is one parameter group only, because ZeRO calls `step()` once per group: weight decay and its
    exclusions belong to a slice. Moments are float32, shaped like the shard they belong to.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        rule: LambOptions | AdamWOptions,
        *,
        weight_decay: float,
        max_grad_norm: float,
        spikes: SpikeRule | None = None,
    ) -> None:
        super().__init__(list(parameters), {"lr": 0.0})
        self.rule = rule
        self.weight_decay = weight_decay
        self.max_grad_norm = max_grad_norm  # 0 = no clipping
        self.applied_steps = 0
        self.spikes = spikes
        self.recent_norms: list[float] = []  # of the last steps, where there is a rule for spikes
        self.spike: str | None = None  # what was wrong with the last step's gradient, if it was an outlier
        self._figures: ParameterFigures = {}
        self._layout: ShardLayout | None = None
        self._pending: _Pending | None = None

    @property
    def layout(self) -> ShardLayout:
        if self._layout is None:
            raise RuntimeError("The optimizer has no layout yet; a backend binds it once its engine exists.")
        return self._layout

    def bind(self, layout: ShardLayout) -> None:
        """Takes the layout and makes zero moments for each of its shards."""
        self._layout = layout
        for shard in layout.shards:
            state = self.state[shard.tensor]
            for kind in ("exp_avg", "exp_avg_sq"):
                state[kind] = torch.zeros_like(shard.tensor, memory_format=torch.preserve_format).detach()

    def moments(self, kind: str) -> list[torch.Tensor]:
        """The tensors of one kind (`exp_avg` or `exp_avg_sq`), one for each shard."""
        return [self.state[shard.tensor][kind] for shard in self.layout.shards]

    def begin(self, lr: float, grad_norm: torch.Tensor | None = None) -> None:
        """Opens a step. Without `grad_norm` it is taken from the gradients that the first `step()` finds."""
        self._pending, self.spike = _Pending(lr, grad_norm), None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Updates every shard that has a gradient; the gradients are overwritten.

        A gradient that is not finite, or whose norm is a spike, changes nothing, on any rank, because the norm is
        global.
        """
        pending = self._pending
        if pending is None:
            raise RuntimeError("An engine called step() outside begin() and finish().")
        ready = [
            (i, s) for i, s in enumerate(self.layout.shards) if s.tensor.grad is not None or not s.slices
        ]
        shards = [shard for _, shard in ready]
        slices = [piece for shard in shards for piece in shard.slices]
        gradients = self._views(shards, [_gradient_of(shard) for shard in shards])
        if pending.grad_norm is None:
            if len(ready) != len(self.layout.shards):
                raise RuntimeError("The gradient norm needs the gradients of all shards at once.")
            pending.grad_norm = self.layout.global_norm(gradients, slices)
        pending.stepped.update(index for index, _ in ready)
        if not bool(torch.isfinite(pending.grad_norm)) or self._is_spike(pending):
            return
        local = LocalSlices(
            layout=self.layout,
            slices=slices,
            weights=self._views(shards, [shard.tensor for shard in shards]),
            unclipped=gradients,
            exp_avg=self._views(shards, [self.state[shard.tensor]["exp_avg"] for shard in shards]),
            exp_avg_sq=self._views(shards, [self.state[shard.tensor]["exp_avg_sq"] for shard in shards]),
            parameter_decays=[decay_of(info, self.weight_decay) for info in self.layout.parameters],
            clip=self._clip_factor(pending.grad_norm),
        )
        figures = self.rule.apply(local, pending.lr, self.applied_steps + 1)
        for kind, values in figures.items():
            earlier = pending.figures.get(kind, values)
            pending.figures[kind] = torch.where(values.isnan(), earlier, values)

    def abandon(self) -> None:
        """Closes a step that the engine itself declined; nothing was updated."""
        self._pending = None

    def finish(self) -> tuple[float, bool]:
        """Closes the step: (gradient norm before clipping, whether the update was skipped)."""
        pending, self._pending = self._pending, None
        if pending is None or pending.grad_norm is None or len(pending.stepped) != len(self.layout.shards):
            raise RuntimeError(
                "The engine did not step every shard; its version may lay weights out otherwise."
            )
        grad_norm = float(pending.grad_norm)
        finite = isfinite(grad_norm)
        skipped = not finite or self.spike is not None
        if finite and self.spikes is not None:
            self.recent_norms = self.spikes.remembered(grad_norm, self.recent_norms)
        self.applied_steps += not skipped
        self._figures = pending.figures
        return grad_norm, skipped

    def parameter_figures(self) -> dict[str, dict[str, float]]:
        """By kind and parameter name, what the rule says of the last step; empty where it was skipped or says none."""
        names = [info.name for info in self.layout.parameters]
        return {
            kind: {name: x for name, x in zip(names, values.tolist(), strict=True) if not isnan(x)}
            for kind, values in self._figures.items()
        }

    def _is_spike(self, pending: _Pending) -> bool:
        """Once a step, whatever the number of its sub-groups."""
        if self.spikes is not None and not pending.judged and pending.grad_norm is not None:
            self.spike = self.spikes.found(float(pending.grad_norm), self.recent_norms)
            pending.judged = True
        return self.spike is not None

    def _clip_factor(self, grad_norm: torch.Tensor) -> torch.Tensor | None:
        return (self.max_grad_norm / grad_norm).clamp(max=1.0).float() if self.max_grad_norm > 0 else None

    @staticmethod
    def _views(shards: list[Shard], tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        return [view for shard, tensor in zip(shards, tensors, strict=True) for view in shard.views(tensor)]


def _gradient_of(shard: Shard) -> torch.Tensor:
    gradient = shard.tensor.grad
    return torch.empty_like(shard.tensor) if gradient is None else gradient
