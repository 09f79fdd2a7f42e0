"""How many elements the fullest rank holds of what is sharded, by the rule of each engine.

- stage 0: all of them;
- DeepSpeed, stages 1 and 2: one flat run of all parameters, cut evenly;
- DeepSpeed, stage 3: each parameter in its flattened form;
- FSDP: each parameter along its first axis, so that of one with fewer rows than ranks some ranks hold a whole row.
"""

from collections.abc import Sequence

from pretrain.backends.carried import BackendName
from pretrain.sharding import ParameterInfo


def held_numel(backend: BackendName, stage: int, parameters: Sequence[ParameterInfo], ranks: int) -> int:
    """Of rank 0, which holds no less than any other; `ranks` hold everything once."""
    if stage == 0:
        return sum(info.numel for info in parameters)
    if backend == "deepspeed":
        if stage == 3:
            return sum(-(-info.numel // ranks) for info in parameters)
        return -(-sum(info.numel for info in parameters) // ranks)
    return sum(-(-info.shape[0] // ranks) * (info.numel // info.shape[0]) for info in parameters)
