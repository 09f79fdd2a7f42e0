"""Where a training step went wrong: the step is repeated under observation, and what is found gets a name."""

from pretrain.diagnosis.diagnosis import Diagnosis
from pretrain.diagnosis.hooks import Finding, FiniteChecks

__all__ = ["Diagnosis", "Finding", "FiniteChecks"]
