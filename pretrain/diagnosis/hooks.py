"""Finite checks on everything that goes through a model in one micro-batch, by hooks that any engine leaves alone.

- forward: every output of every module, in the order in which they are made, so that of nested modules the innermost
  comes first;
- backward: the gradient of each of those outputs, and of each trained parameter before an engine adds it to that of
  other ranks. A parameter is hooked when its module is about to run: engines that shard it have put it together by
  then, and the whole parameter is what autograd knows.
"""

from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Literal, NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn

from pretrain.model import PretrainingModel

LOSS = "the loss"
Passage = Literal["forward", "backward"]
What = Literal["output of", "gradient of the output of", "gradient of"]


class Finding(NamedTuple):
    """The first thing in a pass that was not finite.

    `what`: the output of a module, the gradient of such an output, or that of a parameter, by the `name` that the model
    gives it. `after`: what was looked at before and was finite; None where nothing was.
    """

    passage: Passage
    what: What
    name: str
    after: str | None

    def __str__(self) -> str:
        what = f"the {self.what}" if self.name == LOSS else f"the {self.what} {self.name}"
        if self.name == LOSS:
            what = LOSS if self.what == "output of" else f"the gradient of {LOSS}"
        behind = "" if self.after is None else f" (after {self.after}, which was finite)"
        return f"in {what} in the {self.passage} pass{behind}"


class _Handle(Protocol):
    def remove(self) -> None: ...


class FiniteChecks:
    """Looks on while its `with` block runs one micro-batch; `forward` and `backward` are what it found first."""

    def __init__(self, model: PretrainingModel) -> None:
        self._model = model
        self._handles: list[_Handle] = []
        self._hooked: set[int] = set()
        self._last: dict[str, str] = {}
        self.forward: Finding | None = None
        self.backward: Finding | None = None

    @property
    def first(self) -> Finding | None:
        """What the other follows from, if there are two."""
        return self.forward or self.backward

    def __enter__(self) -> Self:
        for name, module, parameters in self._model.observable_modules():
            before, after = self._before(parameters), self._after(name or LOSS)
            self._handles.append(module.register_forward_pre_hook(before))
            self._handles.append(module.register_forward_hook(after))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _before(self, parameters: Callable[[], Mapping[str, nn.Parameter]]) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any) -> None:
            for name, parameter in parameters().items():
                # Recomputation of activations runs the module again, and tied parameters have several modules.
                if parameter.requires_grad and id(parameter) not in self._hooked:
                    self._hooked.add(id(parameter))
                    self._watch_gradient(parameter, "gradient of", name)

        return hook

    def _after(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            for tensor in _tensors(output):
                if self.forward is None:
                    self.forward = self._looked_at(tensor, "forward", "output of", name)
                if tensor.requires_grad:
                    self._watch_gradient(tensor, "gradient of the output of", name)

        return hook

    def _watch_gradient(self, tensor: Tensor, what: What, name: str) -> None:
        def hook(gradient: Tensor) -> None:
            if self.backward is None:
                self.backward = self._looked_at(gradient, "backward", what, name)

        self._handles.append(tensor.register_hook(hook))

    @torch.no_grad()
    def _looked_at(self, tensor: Tensor, passage: Passage, what: What, name: str) -> Finding | None:
        if not torch.isfinite(tensor.detach()).all():
            return Finding(passage, what, name, self._last.get(passage))
        self._last[passage] = name
        return None


def _tensors(value: Any) -> Iterator[Tensor]:
    """The floating-point tensors in what a module returns."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
