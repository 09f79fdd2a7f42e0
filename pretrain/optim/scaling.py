"""Learning rates for another batch than the one they were found at."""

from math import sqrt
from typing import Literal

ScalingRule = Literal["none", "linear", "sqrt"]


def scaled_lr(lr: float, rule: ScalingRule, samples: float, base_samples: float) -> float:
    """`lr`, found at `base_samples` samples per step, for `samples` per step.

    - linear: by the ratio of the batches (Goyal et al. 2017, arXiv 1706.02677).
    - sqrt: by its square root (Hoffer et al. 2017, arXiv 1705.08741), as the LAMB paper scales
      (You et al. 2020, arXiv 1904.00962: 5e-3 at 32,768 and 5e-3 / 2^3 at 512).
    """
    ratio = samples / base_samples
    return lr * {"none": 1.0, "linear": ratio, "sqrt": sqrt(ratio)}[rule]
