"""Which parameters are not trained, by patterns over their names."""

from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from transformers import PreTrainedModel

from pretrain.errors import UsageError

_NAMES_SUGGESTED = 3


def freeze(encoder: PreTrainedModel, patterns: Sequence[str]) -> None:
    """Parameters whose name a pattern of the shell's kind matches get no gradient (`requires_grad`).

    A tied parameter has one name, the first that the model gives it. Raises UsageError for a pattern that matches none,
    and where nothing is left to train.
    """
    parameters = dict(encoder.named_parameters())
    for pattern in patterns:
        matched = [name for name in parameters if fnmatchcase(name, pattern)]
        if not matched:
            raise UsageError(
                f"model.frozen: no parameter's name matches {pattern!r}; {_advice(encoder, pattern)}."
            )
        for name in matched:
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise UsageError("model.frozen matches every parameter of the model: leave something to train.")


def _advice(encoder: PreTrainedModel, pattern: str) -> str:
    """Where a tied parameter has its name, or the names that are most alike."""
    first_names = {id(parameter): name for name, parameter in encoder.named_parameters()}
    for name, parameter in encoder.named_parameters(remove_duplicate=False):
        if fnmatchcase(name, pattern):
            return f"{name} is tied to {first_names[id(parameter)]}, so give that name"
    # Patterns mean modules as often as parameters.
    modules = [
        f"{name}.*"
        for name, module in encoder.named_modules()
        if name and any(True for _ in module.parameters())
    ]
    near = get_close_matches(pattern, [*first_names.values(), *modules], _NAMES_SUGGESTED, cutoff=0.3)
    return f"the nearest are {', '.join(near or list(first_names.values())[:_NAMES_SUGGESTED])}"
