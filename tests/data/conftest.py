"""No deadline for examples: the first one that runs a compiled loop may have to wait for the compiler."""

from hypothesis import settings

settings.register_profile("compiled loops", deadline=None)
settings.load_profile("compiled loops")
