"""Which parameters weight decay leaves alone."""

from pretrain.sharding import ParameterInfo


def decay_of(parameter: ParameterInfo, weight_decay: float, decay_1d: bool = False) -> float:
    """`weight_decay`, or 0 for biases and normalization weights: every parameter with fewer than two axes.

    BERT's published training (Devlin et al. 2018, Appendix A.2 and its code) excludes LayerNorm and biases; with
    `decay_1d` nothing is excluded.
    """
    return weight_decay if decay_1d or len(parameter.shape) >= 2 else 0.0
