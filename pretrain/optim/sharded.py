"""The optimizer that engines hold: one step over the local shards, the same under every backend.

An engine cuts the weights first and calls `step()` later, so the optimizer is made empty, bound to the
`ShardLayout` once the engine exists, and told rate and norm before each step:

    bind(layout) -> begin(lr) -> [engine calls step(), once or once per sub-group] -> finish()

Begun without a rate, a step updates nothing and ends with `measured()`: only its gradient norm was wanted.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import isfinite, isnan, nan

import torch

from pretrain.optim.adafactor import AdafactorOptions
from pretrain.optim.adamw import AdamWOptions
from pretrain.optim.decay import Decays
from pretrain.optim.lamb import LambOptions
from pretrain.optim.moments import LocalSlices, ParameterFigures
from pretrain.optim.sgd import SgdOptions
from pretrain.optim.skipping import Skip
from pretrain.optim.spikes import SpikeRule
from pretrain.sharding import Shard, ShardLayout, Sliced, SliceTable

Rule = LambOptions | AdamWOptions | SgdOptions | AdafactorOptions


@dataclass
class _Pending:
    """What one optimizer step knows before the engine applies it."""

    lr: float | None
    grad_norm: float | None
    grad_scale: float
    stepped: set[int] = field(default_factory=set)
    judged: bool = False  # whether the norm was looked at; `skip` is what came of it
    skip: Skip | None = None
    figures: ParameterFigures = field(default_factory=dict)


class ShardedOptimizer(torch.optim.Optimizer):
    """LAMB, AdamW, SGD or Adafactor over the slices of a `ShardLayout`, with clipping by the one global gradient norm.

    There is one parameter group only, because ZeRO calls `step()` once per group: weight decay and its
    exclusions belong to a slice. Moments are float32, shaped like the shard they belong to.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        rule: Rule,
        *,
        weight_decay: float,
        max_grad_norm: float,
        decay_1d: bool = False,
        spikes: SpikeRule | None = None,
    ) -> None:
        super().__init__(list(parameters), {"lr": 0.0})
        self.rule = rule
        self.weight_decay = weight_decay
        self.decay_1d = decay_1d
        self.max_grad_norm = max_grad_norm  # 0 = no clipping
        self.applied_steps = 0
        self.earlier_steps = 0  # that the moments hold from before the first of these
        self.spikes = spikes
        self.recent_norms: list[float] = []  # of the last updates, where there is a rule for spikes
        self.spikes_in_row = 0  # since the last update
        self.vectors: dict[str, torch.Tensor] = {}  # of the rule, whole and equal on every rank
        self._figures: ParameterFigures = {}
        self._layout: ShardLayout | None = None
        self._tables: dict[tuple[int, ...], SliceTable] = {}  # by the shards that a call stepped
        self._pending: _Pending | None = None

    @property
    def layout(self) -> ShardLayout:
        if self._layout is None:
            raise RuntimeError("The optimizer has no layout yet; a backend binds it once its engine exists.")
        return self._layout

    def bind(self, layout: ShardLayout) -> None:
        """Takes the layout and makes zero moments for each of its shards."""
        self._layout, self._tables = layout, {}
        self._decays = Decays.of(layout, self.weight_decay, self.decay_1d)
        if isinstance(self.rule, AdafactorOptions):
            self.vectors = self.rule.new_vectors(layout)
        for shard in layout.shards:
            state = self.state[shard.tensor]
            for kind in self.rule.moment_kinds:
                state[kind] = torch.zeros_like(shard.tensor, memory_format=torch.preserve_format).detach()

    def moments(self, kind: str) -> list[torch.Tensor]:
        """The tensors of one of the rule's kinds, one for each shard."""
        return [self.state[shard.tensor][kind] for shard in self.layout.shards]

    def begin(self, lr: float | None, grad_norm: torch.Tensor | None = None, grad_scale: float = 1.0) -> None:
        """Opens a step; without `lr` one that updates nothing.

        Without `grad_norm` it is taken from the gradients that the first `step()` finds.

        The gradients, and `grad_norm`, are `grad_scale` times what they stand for; norm, clipping and moments
        get them divided by it, in float32.
        """
        norm = None if grad_norm is None else float(grad_norm) / grad_scale
        self._pending = _Pending(lr, norm, grad_scale)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Updates every shard that has a gradient; the gradients are overwritten.

        A gradient that is not finite, or whose norm is a spike, changes nothing, on any rank, because the norm is
        global; nor does one whose scale is so small that its inverse is infinite in the gradients' own type.
        """
        pending = self._pending
        if pending is None:
            raise RuntimeError("An engine called step() outside begin() and finish().")
        # Offloaded sub-groups have their gradients all at once, and the first of as many calls steps them all.
        ready = tuple(
            i
            for i, s in enumerate(self.layout.shards)
            if i not in pending.stepped and (s.tensor.grad is not None or not s.slices)
        )
        table = self._table_of(ready)
        gradients = Sliced(table, [_gradient_of(shard) for shard in table.shards])
        norm = None
        if pending.grad_norm is None:
            if len(ready) != len(self.layout.shards):
                raise RuntimeError("The gradient norm needs the gradients of all shards at once.")
            norm = self.layout.global_norm(gradients)
        local = self._local(table, gradients)
        local.find()  # before the norm is waited for
        if norm is not None:
            pending.grad_norm = float(norm) / pending.grad_scale
        assert pending.grad_norm is not None
        pending.stepped.update(ready)
        if pending.lr is None:
            return
        if not pending.judged:  # once a step, whatever the number of its sub-groups
            pending.skip, pending.judged = self._skip_for(pending.grad_norm, pending.grad_scale), True
        if pending.skip is not None:
            return
        factor = self._gradient_factor(pending.grad_norm, pending.grad_scale)
        local = replace(local, gradient_factor=factor)
        figures = self.rule.apply(local, pending.lr, self.earlier_steps + self.applied_steps + 1)
        for kind, values in figures.items():
            earlier = pending.figures.get(kind, values)
            pending.figures[kind] = torch.where(values.isnan(), earlier, values)

    def abandon(self) -> tuple[float, Skip]:
        """Closes a step that the engine declined because a gradient is not finite; what `finish` says of such."""
        self._pending, self._figures = None, {}
        return nan, _not_finite(nan)

    def finish(self) -> tuple[float, Skip | None]:
        """Closes the step: (gradient norm before clipping, why nothing was updated, or None)."""
        pending, grad_norm = self._closed()
        self._figures = pending.figures
        if pending.skip is not None:
            return grad_norm, self._counted(pending.skip)
        self.applied_steps += 1
        self.spikes_in_row = 0
        if self.spikes is not None:
            self.recent_norms = self.spikes.remembered(grad_norm, self.recent_norms)
        return grad_norm, None

    def measured(self) -> float:
        """Closes a step that was begun without a rate: its gradient norm before clipping."""
        _, grad_norm = self._closed()
        return grad_norm

    def parameter_figures(self) -> dict[str, dict[str, float]]:
        """By kind and parameter name, what the rule says of the last step; empty where it was skipped or says none."""
        if not self._figures:
            return {}
        names = [info.name for info in self.layout.parameters]
        rows = torch.stack(list(self._figures.values())).tolist()  # one wait for the device
        return {
            kind: {name: x for name, x in zip(names, row, strict=True) if not isnan(x)}
            for kind, row in zip(self._figures, rows, strict=True)
        }

    def _local(self, table: SliceTable, gradients: Sliced) -> LocalSlices:
        """What lies here for a step, the gradients as they are."""
        return LocalSlices(
            layout=self.layout,
            table=table,
            weights=Sliced(table, [shard.tensor for shard in table.shards]),
            raw_gradients=gradients,
            moments={
                kind: Sliced(table, [self.state[shard.tensor][kind] for shard in table.shards])
                for kind in self.rule.moment_kinds
            },
            parameter_decays=self._decays,
            vectors=self.vectors,
        )

    def _closed(self) -> tuple[_Pending, float]:
        """The step that the engine has gone through, and its gradient norm."""
        pending, self._pending = self._pending, None
        if pending is None or pending.grad_norm is None or len(pending.stepped) != len(self.layout.shards):
            raise RuntimeError(
                "The engine did not step every shard; its version may lay weights out otherwise."
            )
        return pending, pending.grad_norm

    def _skip_for(self, grad_norm: float, grad_scale: float) -> Skip | None:
        """Whether nothing may be updated by gradients of this norm and scale."""
        if not isfinite(grad_norm):
            return _not_finite(grad_norm)
        if self._gradient_factor(grad_norm, grad_scale) > torch.finfo(self.layout.dtype).max:
            return Skip("not finite", f"the inverse of the gradients' scale {grad_scale:g} is not finite")
        return None if self.spikes is None else self.spikes.found(grad_norm, self.recent_norms)

    def _counted(self, skip: Skip) -> Skip:
        if skip.reason != "spike":
            return skip
        self.spikes_in_row += 1
        return skip._replace(in_row=self.spikes_in_row)

    def _gradient_factor(self, grad_norm: float, grad_scale: float) -> float:
        """What undoes the scale and clips, in one number: rules apply it where they walk the gradients anyway."""
        clipped = 0 < self.max_grad_norm < grad_norm
        return (self.max_grad_norm / grad_norm if clipped else 1.0) / grad_scale

    def _table_of(self, shards: tuple[int, ...]) -> SliceTable:
        if shards not in self._tables:
            self._tables[shards] = SliceTable(tuple(self.layout.shards[index] for index in shards))
        return self._tables[shards]


def _gradient_of(shard: Shard) -> torch.Tensor:
    gradient = shard.tensor.grad
    return torch.empty_like(shard.tensor) if gradient is None else gradient


def _not_finite(grad_norm: float) -> Skip:
    return Skip("not finite", f"the gradient norm is {grad_norm}")
