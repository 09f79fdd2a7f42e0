"""Which parameters weight decay leaves alone."""

from dataclasses import dataclass
from functools import cached_property

import torch

from pretrain.sharding import ParameterInfo, ShardLayout


def decay_of(parameter: ParameterInfo, weight_decay: float, decay_1d: bool = False) -> float:
    """`weight_decay`, or 0 for biases and normalization weights: every parameter with fewer than two axes.

    BERT's published training (Devlin et al. 2018, Appendix A.2 and its code) excludes LayerNorm and biases; with
    `decay_1d` nothing is excluded.
    """
    return weight_decay if decay_1d or len(parameter.shape) >= 2 else 0.0


@dataclass(frozen=True, eq=False)
class Decays:
    """The weight decay of every parameter of a layout, held here or not."""

    by_parameter: tuple[float, ...]
    device: torch.device

    @classmethod
    def of(cls, layout: ShardLayout, weight_decay: float, decay_1d: bool = False) -> "Decays":
        decays = tuple(decay_of(info, weight_decay, decay_1d) for info in layout.parameters)
        return cls(decays, layout.device)

    @cached_property
    def table(self) -> torch.Tensor:
        """float64 [num_parameters], on the device of the shards."""
        return torch.tensor(self.by_parameter, dtype=torch.float64, device=self.device)
