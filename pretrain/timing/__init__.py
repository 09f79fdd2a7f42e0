"""Where the seconds of a step go, on every rank: waiting for data, busy itself, or waiting for the others."""

from pretrain.timing.profile import Profile, ProfileOptions
from pretrain.timing.steps import Timing

__all__ = ["Profile", "ProfileOptions", "Timing"]
